// The stalls of a deployment's streams after faults, and where their time went, by the metrics of its gateways and workers.

import { type Scraped, type StallRow, stallRow, stallTable } from "../kit/gateway/stalls.ts";
import { scrape } from "../kit/kube/scrape.ts";
import type { Deployed } from "./world.ts";

export class StallLog {
  readonly rows: StallRow[] = [];
  readonly #moe: Deployed;

  constructor(moe: Deployed) {
    this.#moe = moe;
  }

  /** `strike` resolves when the streams go on again, to the longest wait of any of them for a token. */
  async of(fault: string, strike: () => Promise<number>): Promise<StallRow> {
    const before = await this.#scrape();
    const longestMs = await strike();
    const row = stallRow(fault, longestMs, before, await this.#scrape());
    this.rows.push(row);
    return row;
  }

  print(): void {
    process.stderr.write(stallTable(this.rows));
  }

  /** A pod that does not answer is left out. */
  async #scrape(): Promise<Scraped> {
    const { kubectl, name, namespace } = this.#moe;
    const pods = await kubectl.list("pods", `enodia.dev/deployment=${name}`);
    const looks = pods.map(
      async ({ metadata }) => [metadata.name, await scrape(kubectl, namespace, metadata.name).catch(() => [])] as const,
    );
    return new Map((await Promise.all(looks)).filter(([, samples]) => samples.length > 0));
  }
}
