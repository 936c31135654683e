// The rows of `bench -- gpu` from what was measured with one layer and with two, and the table that they are written as. Pure.

/** Milliseconds of the best round. */
export interface Times {
  readonly prefillMs: number;
  readonly decodeMs: number;
}
/** With one layer, and with two. */
export type Both = readonly [Times, Times];

/** What the device reaches. */
export interface DeviceLimits {
  /** Read and written by a copy within its memory. */
  readonly copyGigabytesPerSecond: number;
  /** Of the best product of many rows; undefined where none was tried. */
  readonly productGigaflops: number | undefined;
}

export interface Measured {
  readonly layers: number;
  readonly prompt: number;
  readonly ours: Both;
  /** Of llama.cpp, or why it was not measured. */
  readonly llama: Both | string;
  /** Bytes of weights that a token needs at least. */
  readonly tokenBytes: number;
  /** Values of weights that a token is multiplied by in the layers. */
  readonly tokenValues: number;
  readonly limits: DeviceLimits;
}

const rounded = (value: number, digits: number): number => Number(value.toFixed(digits));

/** The whole model's time. Noise may have two layers take less than one. */
const whole = ([one, two]: Both, layers: number, of: keyof Times): number => one[of] + (layers - 1) * Math.max(0, two[of] - one[of]);
const layerMore = ([one, two]: Both, of: keyof Times): number => two[of] - one[of];

/** Times of ours, as shares of what the device reaches and beside llama.cpp, or why there is none. */
export function gpuRows({ layers, prompt, ours, llama, tokenBytes, tokenValues, limits }: Measured) {
  const row = (what: string, tokens: number, ofLimit: (ms: number) => string, ms: (of: Both) => number) => {
    const [own, theirs] = [ms(ours), typeof llama === "string" ? undefined : ms(llama)];
    return {
      case: what,
      milliseconds: rounded(own, 3),
      tokensPerSecond: own > 0 ? rounded((1000 * tokens) / own, 1) : 0, // noise
      ofLimit: ofLimit(own),
      llamaMilliseconds: theirs === undefined ? null : rounded(theirs, 3),
      timesLlama: theirs === undefined || theirs <= 0 || own <= 0 ? null : rounded(theirs / own, 2),
      withoutLlama: typeof llama === "string" ? llama : "",
    };
  };
  const ofCopy = (ms: number): string => `${((100 * tokenBytes) / ms / 1e6 / limits.copyGigabytesPerSecond).toFixed(0)}% of a copy`;
  const { productGigaflops } = limits;
  const ofProduct = (ms: number): string =>
    productGigaflops === undefined ? "" : `${((100 * 2 * prompt * tokenValues) / ms / 1e6 / productGigaflops).toFixed(0)}% of a product`;
  const none = (): string => "";
  return [
    row(`decode after ${prompt} tokens, ${layers} layers`, 1, ofCopy, (of) => whole(of, layers, "decodeMs")),
    row(`prefill of ${prompt} tokens, ${layers} layers`, prompt, ofProduct, (of) => whole(of, layers, "prefillMs")),
    row("decode, one layer more", 1, none, (of) => layerMore(of, "decodeMs")),
    row("prefill, one layer more", prompt, none, (of) => layerMore(of, "prefillMs")),
  ];
}

export function gpuTable(day: string, title: string, device: string, rows: ReturnType<typeof gpuRows>): string {
  const cells = rows.map((row) => {
    const peer = row.withoutLlama === "" ? `${row.llamaMilliseconds} | ${row.timesLlama ?? "noise"}` : `${row.withoutLlama} | `;
    return `| ${row.case} | ${row.milliseconds} | ${row.tokensPerSecond} | ${row.ofLimit} | ${peer} |`;
  });
  const head = "| case | ms | tokens/s | of the device | llama.cpp, ms | times as fast |\n|---|---|---|---|---|---|";
  return `\n## ${day}: ${title}\n${device}\n\n${head}\n${cells.join("\n")}\n`;
}
