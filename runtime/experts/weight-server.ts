// A rank's client of the weight server, one pod with the whole store, found by its Service. It is no member and may be away while nobody needs
// it.
import { AppError } from "../../crds/common.ts";
import { Shards, StoreFiles } from "../net/gen/enodia/runtime/v1/runtime_pb.js";
import type { Network } from "../net/grpc.ts";
import type { Identity } from "../net/mapping.ts";
import { whenReady } from "../net/ready.ts";
import { serverNames, type TlsSource } from "../net/tls.ts";

const connectTimeoutMs = 2_000;
/** The time after which an unused connection closes. */
const idleMs = 60_000;

export interface WeightServerOptions {
  readonly self: Identity;
  readonly namespace: string;
  readonly name: string;
  readonly tls: TlsSource;
  readonly network: Pick<Network, "connect">;
  /** Addresses (ip:port) of ready pods. */
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

  /** Throws `Unavailable` while there is no weight server. */
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
    // Another call was faster.
    if (this.#known !== undefined) clients.close();
    this.#known ??= clients;
    return this.#known;
  }

  /** The next call looks the pod up again. */
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
