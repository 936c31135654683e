// Ranks of training in one process that meet over TLS on loopback, each with a port and a certificate of its own.
import type { Hub } from "../../../runtime/net/collectives/transport.ts";
import { type WireOptions, WireTransport } from "../../../runtime/net/collectives/wire.ts";
import type { TlsSource } from "../../../runtime/net/tls.ts";
import { createTestCa } from "../network/certs.ts";

const [namespace, name] = ["default", "train"];
const ca = createTestCa();
const certificates: TlsSource[] = [];

/** The certificate of a rank. */
export function rankTls(rank: number): TlsSource {
  certificates[rank] ??= ca.issue(`rank-${rank}`, namespace, name);
  return certificates[rank];
}

/** A certificate of another job, whose CA is the same. */
export const strangerTls = (rank: number): TlsSource => ca.issue(`rank-${rank}`, namespace, "other");

export interface WireRanksOptions {
  readonly limits?: WireOptions["limits"];
  /** What is other at one rank. */
  own?(rank: number): Partial<WireOptions>;
}

export class WireRanks implements Hub {
  readonly #ends: readonly WireTransport[];
  readonly ports: readonly number[];
  readonly problems: string[];

  private constructor(ends: readonly WireTransport[], ports: readonly number[], problems: string[]) {
    this.#ends = ends;
    this.ports = ports;
    this.problems = problems;
  }

  static async open(ranks: number, { limits = {}, own = () => ({}) }: WireRanksOptions = {}): Promise<WireRanks> {
    const ports: number[] = [];
    const problems: string[] = [];
    const ends = Array.from({ length: ranks }, (_, rank) => {
      const given: WireOptions = {
        ...{ job: "j", world: 1, rank, ranks, namespace, name, tls: rankTls(rank), limits: { lookMs: 50, ...limits } },
        address: (to) => `127.0.0.1:${ports[to]}`,
        onProblem: (message) => void problems.push(message),
        ...own(rank),
      };
      return new WireTransport(given);
    });
    for (const end of ends) ports.push(await end.listen("127.0.0.1", 0));
    return new WireRanks(ends, ports, problems);
  }

  transport(rank: number): WireTransport {
    return this.#ends[rank] as WireTransport;
  }
  takeTraffic(rank: number, what: string): { readonly sent: number; readonly received: number } {
    return this.transport(rank).takeTraffic(what);
  }
  end(error: unknown): void {
    for (const each of this.#ends) each.end(error);
  }
  async close(): Promise<void> {
    await Promise.all(this.#ends.map((each) => each.close()));
  }
}
