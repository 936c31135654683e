// One layer under search: who hosts what, how the rows are split, and a smooth maximum of the normalised rank loads.
// It can price a change of the hosts of up to three experts without making it. Pure; knows no budget and no other layer.
import { pour } from "../../../runtime/placement/split.ts";

/** Exponent of the smooth maximum: high enough that only the hottest ranks count, low enough that ties still pull. */
const power = 32;
const sweepsAfterApply = 2;

/** Hosts that one expert would have. */
export interface HostChange {
  readonly expert: number;
  readonly hosts: readonly number[];
}

export class LayerState {
  readonly layer: number;
  readonly demand: Float64Array;
  readonly hosts: number[][];
  readonly rows: number[][];
  /** Experts that each rank hosts. */
  readonly on: number[][];
  readonly load: Float64Array;
  readonly speed: Float64Array;
  readonly equal: boolean;
  /** Turns a rank's load into a multiple of its fair part. */
  readonly scale: Float64Array;
  /** Sum of normalised load ^ power. */
  private total = 0;
  private readonly scratch: Float64Array;
  private readonly seen: Int32Array;
  private stamp = 0;
  private readonly touched: number[] = [];
  private readonly spare: number[] = [];

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
    this.hosts = options.hosts.map((row) => row.slice());
    this.rows = options.hosts.map((row) => row.map(() => 0));
    this.on = Array.from({ length: G }, () => []);
    this.load = new Float64Array(G);
    this.scratch = new Float64Array(G);
    this.seen = new Int32Array(G);
    const all = options.demand.reduce((a, b) => a + b, 0);
    this.scale = Float64Array.from(options.speed, (s) => (all > 0 && s > 0 ? G / (all * s) : 0));
    this.hosts.forEach((row, e) => {
      for (const g of row) (this.on[g] as number[]).push(e);
    });
    this.refill(true);
    this.settle(8);
  }

  /** Normalised load of a rank: 1 = its fair part. */
  normal(g: number): number {
    return (this.load[g] as number) * (this.scale[g] as number);
  }

  /** The exact max/mean. */
  worst(): number {
    let worst = 0;
    for (let g = 0; g < this.load.length; g++) worst = Math.max(worst, this.normal(g));
    return worst;
  }

  phi(): number {
    return this.total ** (1 / power);
  }

  /** Smooth maximum if the given experts had the given hosts. Nothing is changed. */
  price(changes: readonly HostChange[]): number {
    this.begin();
    for (const { expert } of changes) this.take(expert);
    for (const change of changes) this.give(change.expert, change.hosts);
    return this.finish();
  }

  /** As `price`, of moving `rowsMoved` rows from rank a to rank b: a swap of unreplicated experts in closed form. */
  priceShift(a: number, b: number, rowsMoved: number): number {
    const na = raise(((this.load[a] as number) - rowsMoved) * (this.scale[a] as number));
    const nb = raise(((this.load[b] as number) + rowsMoved) * (this.scale[b] as number));
    const total = this.total - raise(this.normal(a)) - raise(this.normal(b)) + na + nb;
    return Math.max(total, na, nb) ** (1 / power);
  }

  apply(changes: readonly HostChange[]): void {
    for (const { expert } of changes) {
      const row = this.hosts[expert] as number[];
      const rows = this.rows[expert] as number[];
      row.forEach((g, i) => {
        this.load[g] = (this.load[g] as number) - (rows[i] as number);
      });
      for (const g of row) this.forget(g, expert);
    }
    for (const { expert, hosts } of changes) {
      this.hosts[expert] = hosts.slice();
      this.rows[expert] = hosts.map(() => 0);
      for (const g of hosts) (this.on[g] as number[]).push(expert);
      this.fill(expert);
    }
    this.settle(sweepsAfterApply);
  }

  private forget(g: number, expert: number): void {
    const list = this.on[g] as number[];
    list.splice(list.indexOf(expert), 1);
  }

  private fill(expert: number): void {
    const hosts = this.hosts[expert] as number[];
    const rows = this.rows[expert] as number[];
    const demand = this.demand[expert] as number;
    if (!this.equal) {
      pour(demand, hosts, this.load, this.speed, rows);
      return;
    }
    hosts.forEach((g, i) => {
      rows[i] = demand / hosts.length;
      this.load[g] = (this.load[g] as number) + demand / hosts.length;
    });
  }

  private refill(fresh: boolean): void {
    if (fresh) this.load.fill(0);
    for (let e = 0; e < this.hosts.length; e++) if ((this.hosts[e] as number[]).length === 1) this.fill(e);
    for (let e = 0; e < this.hosts.length; e++) if ((this.hosts[e] as number[]).length > 1) this.fill(e);
  }

  /** Gauss-Seidel over the replicated experts, then the sum anew: increments would keep rounding of large terms. */
  private settle(sweeps: number): void {
    if (!this.equal) {
      for (let s = 0; s < sweeps; s++) {
        for (let e = 0; e < this.hosts.length; e++) {
          const hosts = this.hosts[e] as number[];
          if (hosts.length < 2) continue;
          const rows = this.rows[e] as number[];
          for (let i = 0; i < hosts.length; i++)
            this.load[hosts[i] as number] = (this.load[hosts[i] as number] as number) - (rows[i] as number);
          this.fill(e);
        }
      }
    }
    this.total = 0;
    for (let g = 0; g < this.load.length; g++) {
      if ((this.load[g] as number) < 0) this.load[g] = 0;
      this.total += raise(this.normal(g));
      this.scratch[g] = this.load[g] as number;
    }
  }

  private begin(): void {
    this.stamp++;
    this.touched.length = 0;
  }

  private touch(g: number): void {
    if (this.seen[g] === this.stamp) return;
    this.seen[g] = this.stamp;
    this.touched.push(g);
  }

  private take(expert: number): void {
    const hosts = this.hosts[expert] as number[];
    const rows = this.rows[expert] as number[];
    for (let i = 0; i < hosts.length; i++) {
      const g = hosts[i] as number;
      this.touch(g);
      this.scratch[g] = (this.scratch[g] as number) - (rows[i] as number);
    }
  }

  private give(expert: number, hosts: readonly number[]): void {
    const demand = this.demand[expert] as number;
    for (let i = 0; i < hosts.length; i++) this.touch(hosts[i] as number);
    if (!this.equal) {
      pour(demand, hosts, this.scratch, this.speed, this.spare);
      return;
    }
    for (const g of hosts) this.scratch[g] = (this.scratch[g] as number) + demand / hosts.length;
  }

  private finish(): number {
    let total = this.total;
    let top = 0;
    for (let i = 0; i < this.touched.length; i++) {
      const g = this.touched[i] as number;
      const after = raise((this.scratch[g] as number) * (this.scale[g] as number));
      total += after - raise(this.normal(g));
      if (after > top) top = after;
      this.scratch[g] = this.load[g] as number;
    }
    return Math.max(total, top) ** (1 / power);
  }
}

function raise(x: number): number {
  const x2 = x * x;
  const x4 = x2 * x2;
  const x8 = x4 * x4;
  const x16 = x8 * x8;
  return x16 * x16;
}
