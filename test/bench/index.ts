// The benchmarks there are, by name. To add one: its file and one line here. Each prints a table and returns its rows for --json.
export interface Bench {
  readonly summary: string;
  readonly load: () => Promise<(args: readonly string[]) => Promise<readonly object[]>>;
}

export const benches: Readonly<Record<string, Bench>> = {
  decode: {
    summary: "tokens/s of one worker answering 1 and 8 requests, beside the memory-bandwidth limit",
    load: async () => (await import("./serve.ts")).decodeBench,
  },
  prefill: {
    summary: "prompt tokens/s of one worker, beside the memory-bandwidth limit",
    load: async () => (await import("./serve.ts")).prefillBench,
  },
  load: {
    summary: "time between tokens while experts are loaded, beside a quiet run",
    load: async () => (await import("./serve.ts")).loadBench,
  },
  wire: { summary: "cost of one dispatch frame to another process, per size", load: async () => (await import("./wire.ts")).wireBench },
  planner: {
    summary: "balance, copies and time of placement policies against EPLB and the exact optimum; name rows to run some only",
    load: async () => (await import("./planner.ts")).plannerBench,
  },
};
