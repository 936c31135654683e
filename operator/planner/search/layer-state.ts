// One layer under search: its hosts, the split of rows, and a smooth maximum of the normalised rank loads. It prices changes without
// making them.
import { pour, type Ranks } from "../../../runtime/placement/split.ts";

/** The exponent of the smooth maximum: only the hottest ranks count, but ties still pull. */
const power = 32;
const sweepsAfterApply = 2;
const sweepsAtStart = 8;
export const none = -1;

export interface HostChange {
  readonly expert: number;
  readonly hosts: readonly number[];
}

/** Hosts and rows of one layer. Loads are rows per window; "normal" loads are multiples of a rank's fair part. */
export class LayerState {
  readonly layer: number;
  readonly demand: Float64Array;
  /** The hosts of each expert; a row is replaced, never changed. */
  readonly hosts: number[][];
  readonly expertReplicas: Int32Array;
  readonly rows: number[][];
  readonly on: number[][];
  readonly load: Float64Array;
  readonly speed: Float64Array;
  readonly equal: boolean;
  /** Converts a rank's load to a multiple of its fair part. */
  readonly scale: Float64Array;
  /** Converts rows per speed likewise; 0 where routers split equally. */
  readonly perRow: number;
  total = 0;
  readonly #raised: Float64Array;
  readonly #ranks: Ranks;
  readonly #scratch: Float64Array;
  readonly #priced: Ranks;
  readonly #order: Int32Array;
  readonly #seen: Int32Array;
  #stamp = 0;
  readonly #touched: number[] = [];
  readonly #spareRows: number[] = [];
  readonly #spareHosts: number[] = [];

  constructor(options: {
    layer: number;
    demand: Float64Array;
    hosts: readonly (readonly number[])[];
    speed: Float64Array;
    equal: boolean;
  }) {
    const G = options.speed.length;
    this.layer = options.layer;
    this.demand = options.demand;
    this.speed = options.speed;
    this.equal = options.equal;
    this.hosts = options.hosts.slice() as number[][];
    this.expertReplicas = Int32Array.from(options.hosts, (row) => row.length);
    this.rows = options.hosts.map((row) => row.map(() => 0));
    this.on = Array.from({ length: G }, () => []);
    this.load = new Float64Array(G);
    this.#raised = new Float64Array(G);
    this.#ranks = { load: this.load, speed: this.speed };
    this.#scratch = new Float64Array(G);
    this.#priced = { load: this.#scratch, speed: this.speed };
    this.#order = Int32Array.from({ length: G }, (_, g) => g);
    this.#seen = new Int32Array(G);
    const all = options.demand.reduce((a, b) => a + b, 0);
    this.perRow = all > 0 && !options.equal ? G / all : 0;
    this.scale = Float64Array.from(options.speed, (s) => (all > 0 && s > 0 ? G / (all * s) : 0));
    this.hosts.forEach((row, e) => {
      for (const g of row) (this.on[g] as number[]).push(e);
    });
    for (let e = 0; e < this.hosts.length; e++) if (this.expertReplicas[e] === 1) this.#fill(e);
    for (let e = 0; e < this.hosts.length; e++) if ((this.expertReplicas[e] as number) > 1) this.#fill(e);
    this.#settle(sweepsAtStart);
  }

  normal(g: number): number {
    return (this.load[g] as number) * (this.scale[g] as number);
  }

  /** Ranks, the hottest first, ties by number. The array is reused. */
  hottestFirst(): Int32Array {
    const order = this.#order;
    for (let i = 1; i < order.length; i++) {
      const g = order[i] as number;
      const level = this.normal(g);
      let at = i;
      for (; at > 0; at--) {
        const other = order[at - 1] as number;
        const above = this.normal(other) - level;
        if (above > 0 || (above === 0 && other < g)) break;
        order[at] = other;
      }
      order[at] = g;
    }
    return order;
  }

  worst(): number {
    let worst = 0;
    for (let g = 0; g < this.load.length; g++) worst = Math.max(worst, this.normal(g));
    return worst;
  }

  phi(): number {
    return root(this.total);
  }

  rowsOn(expert: number, rank: number): number {
    const i = (this.hosts[expert] as number[]).indexOf(rank);
    return i < 0 ? 0 : ((this.rows[expert] as number[])[i] as number);
  }

  /** `total` if rows moved from rank a to rank b: exact for unreplicated experts. */
  shifted(a: number, b: number, rowsMoved: number): number {
    const na = raise(((this.load[a] as number) - rowsMoved) * (this.scale[a] as number));
    const nb = raise(((this.load[b] as number) + rowsMoved) * (this.scale[b] as number));
    return Math.max(this.total - (this.#raised[a] as number) - (this.#raised[b] as number) + na + nb, na, nb);
  }

  // To price a change: begin, take experts out, give them back with other hosts, finish.
  begin(): void {
    this.#stamp++;
    this.#touched.length = 0;
  }

  take(expert: number): void {
    const hosts = this.hosts[expert] as number[];
    const rows = this.rows[expert] as number[];
    for (let i = 0; i < hosts.length; i++) {
      const g = hosts[i] as number;
      this.#touch(g);
      this.#scratch[g] = (this.#scratch[g] as number) - (rows[i] as number);
    }
  }

  give(expert: number, without: number, withRank: number): void {
    const now = this.hosts[expert] as number[];
    const hosts = this.#spareHosts;
    let n = 0;
    for (let i = 0; i < now.length; i++) if (now[i] !== without) hosts[n++] = now[i] as number;
    if (withRank !== none) hosts[n++] = withRank;
    hosts.length = n;
    for (let i = 0; i < n; i++) this.#touch(hosts[i] as number);
    const demand = this.demand[expert] as number;
    if (!this.equal) {
      pour(demand, hosts, this.#priced, this.#spareRows);
      return;
    }
    for (let i = 0; i < n; i++) this.#scratch[hosts[i] as number] = (this.#scratch[hosts[i] as number] as number) + demand / n;
  }

  finish(): number {
    let total = this.total;
    let top = 0;
    for (let i = 0; i < this.#touched.length; i++) {
      const g = this.#touched[i] as number;
      const after = raise((this.#scratch[g] as number) * (this.scale[g] as number));
      total += after - (this.#raised[g] as number);
      if (after > top) top = after;
      this.#scratch[g] = this.load[g] as number;
    }
    return Math.max(total, top);
  }

  apply(changes: readonly HostChange[]): void {
    for (const { expert } of changes) {
      const row = this.hosts[expert] as number[];
      const rows = this.rows[expert] as number[];
      row.forEach((g, i) => {
        this.load[g] = (this.load[g] as number) - (rows[i] as number);
      });
      for (const g of row) this.#forget(g, expert);
    }
    for (const { expert, hosts } of changes) {
      this.hosts[expert] = hosts.slice();
      this.expertReplicas[expert] = hosts.length;
      this.rows[expert] = hosts.map(() => 0);
      for (const g of hosts) (this.on[g] as number[]).push(expert);
      this.#fill(expert);
    }
    this.#settle(sweepsAfterApply);
  }

  #forget(g: number, expert: number): void {
    const list = this.on[g] as number[];
    list.splice(list.indexOf(expert), 1);
  }

  #fill(expert: number): void {
    const hosts = this.hosts[expert] as number[];
    const rows = this.rows[expert] as number[];
    const demand = this.demand[expert] as number;
    if (!this.equal) {
      pour(demand, hosts, this.#ranks, rows);
      return;
    }
    for (let i = 0; i < hosts.length; i++) {
      rows[i] = demand / hosts.length;
      this.load[hosts[i] as number] = (this.load[hosts[i] as number] as number) + demand / hosts.length;
    }
  }

  /** Splits the replicated experts and sums anew, since increments would accumulate rounding. */
  #settle(sweeps: number): void {
    for (let s = 0; s < sweeps && !this.equal; s++) {
      for (let e = 0; e < this.hosts.length; e++) {
        if ((this.expertReplicas[e] as number) < 2) continue;
        const hosts = this.hosts[e] as number[];
        const rows = this.rows[e] as number[];
        for (let i = 0; i < hosts.length; i++)
          this.load[hosts[i] as number] = (this.load[hosts[i] as number] as number) - (rows[i] as number);
        this.#fill(e);
      }
    }
    this.total = 0;
    for (let g = 0; g < this.load.length; g++) {
      if ((this.load[g] as number) < 0) this.load[g] = 0;
      const part = raise(this.normal(g));
      this.#raised[g] = part;
      this.total += part;
      this.#scratch[g] = this.load[g] as number;
    }
  }

  #touch(g: number): void {
    if (this.#seen[g] === this.#stamp) return;
    this.#seen[g] = this.#stamp;
    this.#touched.push(g);
  }
}

export function raise(x: number): number {
  const x2 = x * x;
  const x4 = x2 * x2;
  const x8 = x4 * x4;
  const x16 = x8 * x8;
  return x16 * x16;
}

export function root(total: number): number {
  return total ** (1 / power);
}
