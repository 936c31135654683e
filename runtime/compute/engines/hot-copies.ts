// Which experts have copies on the device: of each layer those whose rows are most. One copy at a time changes hands.
import type { Weights } from "../../kernels/weights.ts";
import type { Compiled } from "../backend.ts";

export interface Copied {
  readonly layer: number;
  readonly expert: number;
  /** Copies of one form take each other's place. */
  readonly form: string;
  /** Its recent rows, halved at each look. */
  rows: number;
  /** Unset: it has no copy there. */
  readonly device: Compiled | undefined;
}

export interface Exchange<T> {
  readonly hot: T;
  /** Undefined where there is room beside it. */
  readonly cold: T | undefined;
  readonly weights: Weights;
}

interface Layer<T> {
  readonly here: ReadonlySet<T>;
  hasRoom(of: T): boolean;
}

/** Graphs of experts between two looks; a prime, so that all layers have their turn. */
const lookEvery = 97;
/** Beside twice those of the colder one. */
const rowsLeast = 32;
/** Weights are read for one part of the time in so many. */
const readShare = 20;

export class HotCopies<T extends Copied> {
  readonly #read: (layer: number, expert: number) => Promise<Weights>;
  #ready: Exchange<T> | undefined;
  #nextAt = 0;
  #passed = 0;

  constructor(read: (layer: number, expert: number) => Promise<Weights>) {
    this.#read = read;
  }

  /** What is due, whose weights have come; else it may read those of one of the layer's experts. */
  next(layer: Layer<T>): Exchange<T> | undefined {
    const due = this.#ready;
    this.#ready = undefined;
    this.#passed += 1;
    if (due === undefined && this.#passed % lookEvery === 0 && performance.now() >= this.#nextAt) this.#look(layer);
    return due;
  }

  #look({ here, hasRoom }: Layer<T>): void {
    const byRows = [...here].sort((a, b) => b.rows - a.rows);
    const hot = byRows.find(({ device }) => device === undefined);
    const room = hot !== undefined && hasRoom(hot);
    const cold = room ? undefined : byRows.findLast(({ device, form }) => device !== undefined && form === hot?.form);
    const pays = hot && (room ? hot.rows > 0 : cold && hot.rows > 2 * cold.rows + rowsLeast);
    for (const each of here) each.rows /= 2;
    if (!pays) return;
    const startedAt = performance.now();
    this.#nextAt = Number.POSITIVE_INFINITY;
    const settled = (weights?: Weights): void => {
      this.#ready = weights && { hot, cold, weights };
      this.#nextAt = performance.now() + readShare * (performance.now() - startedAt);
    };
    this.#read(hot.layer, hot.expert).then(settled, () => settled());
  }
}
