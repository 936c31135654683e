// A rank's client of the weight server, one pod with the whole store, found by its Service. It is no member and may be away while nobody needs
// it.
import { AppError } from "../../crds/common.ts";
import type { Network } from "../net/grpc.ts";
import type { Identity } from "../net/mapping.ts";
import type { ReadLink } from "../net/read-link.ts";
import { serverNames, type TlsSource } from "../net/tls.ts";

export interface WeightServerOptions {
  readonly self: Identity;
  readonly namespace: string;
  readonly name: string;
  readonly tls: TlsSource;
  readonly network: Pick<Network, "connectReads">;
  /** Addresses (ip:port) of ready pods. */
  readonly addresses: () => Promise<readonly string[]>;
}

export class WeightServer {
  readonly #options: WeightServerOptions;
  #known: ReadLink | undefined;

  constructor(options: WeightServerOptions) {
    this.#options = options;
  }

  /** Throws `Unavailable` while there is no weight server. */
  async reads(): Promise<ReadLink> {
    if (this.#known !== undefined) return this.#known;
    const { self, namespace, name, tls, network, addresses } = this.#options;
    const [address] = await addresses();
    if (address === undefined) throw new AppError("the weight server is not there", { code: "Unavailable", retry: "backoff" });
    // Another call may have been faster.
    this.#known ??= network.connectReads({ address, serverName: serverNames.weightServer(namespace, name), tls, self });
    return this.#known;
  }

  /** The next call looks the pod up again; other reads of this link run on. */
  failed(reads: ReadLink): void {
    if (this.#known !== reads) return;
    reads.leave();
    this.#known = undefined;
  }

  close(): void {
    this.#known?.close();
    this.#known = undefined;
  }
}
