// The weight server of a deployment as a rank sees it: one pod that has the model's whole store, found by its Service's name. It is no member, is
// asked for model bytes alone, and may be away for as long as nobody needs it.
import { AppError } from "../../crds/common.ts";
import { Shards, StoreFiles } from "../net/gen/enodia/runtime/v1/runtime_pb.js";
import type { Network } from "../net/grpc.ts";
import type { Identity } from "../net/mapping.ts";
import { whenReady } from "../net/ready.ts";
import { serverNames, type TlsSource } from "../net/tls.ts";

const connectTimeoutMs = 2_000;
/** A connection that nothing used for so long is closed. */
const idleMs = 60_000;

export interface WeightServerOptions {
  readonly self: Identity;
  readonly namespace: string;
  readonly name: string;
  readonly tls: TlsSource;
  readonly network: Pick<Network, "connect">;
  /** Addresses (ip:port) of the pods behind its Service that are ready. */
  readonly addresses: () => Promise<readonly string[]>;
}

export type WeightServerClients = ReturnType<typeof createWeightServerClients>;

export class WeightServer {
  readonly #options: WeightServerOptions;
  #known: WeightServerClients | undefined;

  constructor(options: WeightServerOptions) {
    this.#options = options;
  }
  get self(): Identity {
    return this.#options.self;
  }

  /** Throws `Unavailable` while no weight server is there. */
  async clients(): Promise<WeightServerClients> {
    if (this.#known !== undefined) return this.#known;
    const [address] = await this.#options.addresses();
    if (address === undefined) throw new AppError("the weight server is not there", { code: "Unavailable", retry: "backoff" });
    const clients = createWeightServerClients(this.#options, address);
    try {
      await whenReady(clients.shards.channel, connectTimeoutMs);
    } catch (error) {
      clients.close();
      throw error;
    }
    // Another call was faster: one pair of connections is enough.
    if (this.#known !== undefined) clients.close();
    this.#known ??= clients;
    return this.#known;
  }

  /** The next call looks for the pod anew. */
  failed(clients: WeightServerClients): void {
    if (this.#known !== clients) return;
    this.#known = undefined;
    clients.close();
  }

  close(): void {
    this.#known?.close();
    this.#known = undefined;
  }
}

function createWeightServerClients({ network, namespace, name, tls }: WeightServerOptions, address: string) {
  const target = { address, serverName: serverNames.weightServer(namespace, name), tls, idleMs };
  const shards = network.connect(Shards, target);
  const files = network.connect(StoreFiles, target);
  return {
    shards,
    files,
    close: () => {
      shards.close();
      files.close();
    },
  };
}
