// The part of a terminal that is drawn again and again: its lines take the place of those before. Without a terminal it draws nothing.
import type { Line } from "./screen.ts";

interface Output {
  readonly isTTY?: boolean;
  readonly columns?: number;
  readonly rows?: number;
  write(text: string): unknown;
}

type Paint = (line: Line) => string;

export class LiveArea {
  readonly #output: Output;
  readonly #paint: Paint;
  #lines = 0;

  constructor(output: Output, paint: Paint) {
    this.#output = output;
    this.#paint = paint;
  }

  get isLive(): boolean {
    return this.#output.isTTY === true;
  }

  get columns(): number {
    return this.#output.columns ?? 80;
  }

  get rows(): number {
    return this.#output.rows ?? 24;
  }

  /** Lines must be shorter than the terminal is wide: one that wraps could not be replaced. */
  draw(lines: readonly Line[]): void {
    if (!this.isLive) return;
    const fitting = lines.slice(0, Math.max(1, this.rows - 1));
    this.#output.write(`${this.#back()}${fitting.map((line) => `${this.#paint(line)}\n`).join("")}`);
    this.#lines = fitting.length;
  }

  /** Takes away what was drawn. */
  clear(): void {
    this.#output.write(this.#back());
    this.#lines = 0;
  }

  /** Leaves what was drawn where it is. */
  keep(): void {
    this.#lines = 0;
  }

  #back(): string {
    return this.#lines === 0 ? "" : `\u001b[${this.#lines}A\r\u001b[J`;
  }
}
