// The benchmarks there are, by name. To add one: its file and one line here. Each prints a table and returns its rows for --json.
export interface Bench {
  readonly summary: string;
  /** Lines of --help on its options. */
  readonly options?: readonly string[];
  readonly load: () => Promise<(args: readonly string[]) => Promise<readonly object[]>>;
}

const engineOptions = [
  "--store DIR    model store (default: the upcycled SmolLM2, made on first use)",
  "--shape NAME   instead: random weights in the shapes of OLMoE-1B-7B (olmoe, 4 GB) or Qwen3-30B-A3B (30b, 17 GB; 35 GB of disk)",
  "--codec NAME   form of the experts, of those that the store holds (default: its first that is quantized)",
  "--backend NAME cpu (default), cuda, vulkan, reference",
  "--threads N    compute threads, of llama.cpp too (default: 1 and all cores, and of each the better)",
  "--runs N       rounds, in each of which every engine has its turn; medians are printed (default 3)",
];
const peerOptions = [
  "--alone        without llama.cpp",
  "--gguf FILE    the file that --store was imported from, for llama.cpp, with --codec source (default: written anew, of Mixtral alone)",
];
const decodeOptions = [
  "--hog          instead: one request beside a process that uses up a CPU, against one thread alone",
  "--split        instead: where the time of a step goes, for each layer",
];
const rowNames =
  "ROW...         rows to run: 1 to 15, parts like 5a or 5s (as a cluster plans), many, growth, fresh (default: all; minutes)";

export const benches: Readonly<Record<string, Bench>> = {
  decode: {
    summary: "tokens/s of one worker answering 1, 8 and 32 requests, beside llama.cpp in turns and the machine's limits",
    options: [...engineOptions, ...peerOptions, ...decodeOptions],
    load: async () => (await import("./speed.ts")).decodeBench,
  },
  prefill: {
    summary: "prompt tokens/s of one worker, beside llama.cpp in turns and the machine's limits",
    options: [...engineOptions, ...peerOptions],
    load: async () => (await import("./speed.ts")).prefillBench,
  },
  ranks: {
    summary: "tokens/s of 1 to 4 ranks in processes with equal shares of the CPUs, beside one rank with all of them",
    options: [
      ...engineOptions,
      "--ranks LIST   numbers of ranks (default: 1,2,3,4)",
      "--cpus N       CPUs that they share (default: all)",
      "--quota X      instead: CPUs of its own for each rank, such as 0.5, beside one rank that has as much",
      "--copies N     ranks that hold each expert (default: 1; as many as there are ranks: no row leaves its own)",
    ],
    load: async () => (await import("./ranks.ts")).ranksBench,
  },
  tiers: {
    summary:
      "tokens/s and stall of ranks with memory for a share of their experts, beside the forecast, and llama.cpp under the same limit",
    options: [
      ...engineOptions,
      "--alone        without llama.cpp",
      "--ranks LIST   numbers of ranks (default: 1)",
      "--shares LIST  percents of the experts' bytes that memory holds (default: 100,75,50,35); texts must be those of the first",
      "--streams LIST requests at once (default: 1,8); the forecast of one is judged",
      "--disk N       MB/s that each reads from the disk at most (default: what it gives)",
      "--prefetch LIST  modes of experts.prefetch, in turns (default: Off)",
    ],
    load: async () => (await import("./tiers.ts")).tiersBench,
  },
  papers: {
    summary: "what each paper on models larger than memory claims, beside the figure here, its control, and what turns it on",
    options: [
      "--trace FILE   of `enodia model trace` (default: recorded of eight topics on the model)",
      "--store DIR    model store (default: the upcycled SmolLM2, made on first use)",
      "--only LIST    papers, such as qmoe,duplex (default: all)",
    ],
    load: async () => (await import("./papers.ts")).papersBench,
  },
  forms: {
    summary: "bytes, tokens/s, perplexity and right answers of a model in each form of its experts and in mixes, by error and by chance",
    options: [
      "--store DIR    model store (default: the upcycled SmolLM2, made on first use)",
      "--only NAME    upcycled (that store) or trained (a small one, taught on first use; default: both, minutes)",
      "--published DIR  instead: widths that MC-MoE's authors found, beside ours; a clone of github.com/Aaronhuang-778/MC-MoE",
    ],
    load: async () => (await import("./forms.ts")).formsBench,
  },
  world: {
    summary: "bytes and CPU that one deployment of many ranks costs its operator, by parts and without a cluster",
    options: ["--ranks LIST   numbers of ranks (default: 16,64,256,1000)", "--layers N, --experts N   of the model (default 58, 256)"],
    load: async () => (await import("./world.ts")).worldBench,
  },
  ulysses: {
    summary: "first token of a long prompt whose heads are spread over ranks: by a model of measured rates, and measured on two",
    options: [
      ...engineOptions.filter((line) => !/^--(backend|threads)/.test(line)),
      "--shapes LIST  of the model: smol-moe, olmoe, 30b (default: all); random weights of one layer",
      "--tokens LIST  of its prompts (default: 1024,4096,8192,16384,32768)",
      "--ranks LIST   numbers of ranks (default: 2,4)",
      "--each N       threads of each rank, each as fast as the one that is measured (default 1)",
      "--link N       MB/s each way of each rank (default: 1250)",
      "--run N        tokens of the prompt that two ranks compute (default 2048)",
    ],
    load: async () => (await import("./ulysses.ts")).ulyssesBench,
  },
  training: {
    summary: "tokens/s of training over ranks in processes by planner, on six workloads, with waits, bytes and the busiest rank's rows",
    options: [
      "--ranks N          ranks (default 4)",
      "--cpus X           CPUs that they share (default: all)",
      "--planners LIST    default: all but exact; what others are compared with is ep",
      "--workloads LIST   balanced, skewed, drifting, bursty, long-tail, alternating (default: all)",
      "--link N           MB/s each way of each rank (default: what the kernel gives)",
      "--steps N          steps of a planner's turn (default 4)",
      "--rounds N         rounds, in each of which every planner has its turn; medians are printed (default 3)",
      "--layers N, --sequences N, --sequence-length N, --micro-batches N   default 4, 16, 256, 8",
      "--peer torch       the same model by expert parallelism in torch, in turns; installed in the cache on first use (gigabytes)",
      "--python FILE      a Python that has torch and numpy",
      "--trace FILE       the last turn's steps of all ranks, for ui.perfetto.dev",
    ],
    load: async () => (await import("./training.ts")).trainingBench,
  },
  interference: {
    summary: "time between a stream's tokens while another rank prefills a long prompt, and that prompt's first token",
    options: [...engineOptions, "--ranks LIST   numbers of ranks (default: 3)"],
    load: async () => (await import("./interference.ts")).interferenceBench,
  },
  roles: {
    summary: "streams on ranks for decode while a rank for prefill computes a long prompt, and ranks that do both in turns",
    options: [
      ...engineOptions,
      "--quota X      CPUs of each of the three ranks (default 0.5)",
      "--copies N     ranks that hold each expert (default 1)",
      "--tokens N     tokens of the prompt (default 1580)",
    ],
    load: async () => (await import("./roles.ts")).rolesBench,
  },
  mixed: {
    summary: "streams beside prompts that come: time between tokens, first tokens, both at once to one after the other",
    options: engineOptions,
    load: async () => (await import("./mixed.ts")).mixedBench,
  },
  load: {
    summary: "time between tokens while experts are loaded beside quiet times, and of loading one beside a copy of its bytes",
    options: [...engineOptions, "--tokens N     tokens of a round's stream (default 1200)"],
    load: async () => (await import("./load.ts")).loadBench,
  },
  failover: {
    summary: "pause of a stream whose worker is killed, beside a prefill of as many tokens at the other worker",
    options: [...engineOptions, "--tokens N     tokens after which it is killed (default 500)"],
    load: async () => (await import("./failover.ts")).failoverBench,
  },
  drain: {
    summary: "pause of a stream whose rank is drained, by parts, beside what its keys and values take at the rate of quiet ranks",
    options: [
      ...engineOptions,
      "--context N    tokens of its prompt (default 1500)",
      "--loads LIST   streams that the other rank decodes meanwhile (default: 0,8; the first gives the rate)",
    ],
    load: async () => (await import("./drain.ts")).drainBench,
  },
  scale: {
    summary: "errors, time between tokens and seconds of load through 2, 4 and 2 ranks again, beside what others published",
    options: [
      ...engineOptions,
      "--clients N    streams at once (default 4)",
      "--seconds N    seconds of load before, between and after (default 20)",
    ],
    load: async () => (await import("./scale.ts")).scaleBench,
  },
  sampling: {
    summary: "time to choose a token, by what a request asks, beside a bare pass over the vocabulary",
    options: ["--vocab N      tokens (default 151936)", "--rounds N     rounds of each case (default 60)"],
    load: async () => (await import("./sampling.ts")).samplingBench,
  },
  kv: {
    summary: "how far keys and values as f16 and q8_0 move logits from those by f32, in every family, at 200 and 3,000 tokens",
    options: ["--store DIR    model store with experts as f32 or source (default: the upcycled SmolLM2, made on first use)"],
    load: async () => (await import("./kv.ts")).kvBench,
  },
  resume: {
    summary: "first token of a text whose keys and values left the attention cache: computed again, from host memory, from the disk",
    options: [...engineOptions, "--tokens N     of the text (default 1500)"],
    load: async () => (await import("./resume.ts")).resumeBench,
  },
  wire: { summary: "cost of one dispatch frame to another process, per size", load: async () => (await import("./wire.ts")).wireBench },
  routing: {
    summary: "prompt tokens found, first token, tokens/s and spread of load by policy of routing, over three ranks and four workloads",
    options: [
      ...engineOptions.slice(0, 4),
      "--workloads LIST  of shared beginnings, chats, agents, unrelated prompts (default: 1,2,3,4)",
      "--runs N       rounds, in each of which every policy has its turn; medians are printed (default 1)",
    ],
    load: async () => (await import("./routing.ts")).routingBench,
  },
  gateway: {
    summary: "CPU of the gateway per streamed token, beside a bare HTTP server that writes the same events",
    options: ["--store DIR    model store, for its tokenizer (default: the upcycled SmolLM2, made on first use)"],
    load: async () => (await import("./gateway.ts")).gatewayBench,
  },
  gpu: {
    summary: "decode and prefill of a 30B shape with random weights on one device, llama.cpp in turns, beside its copy and product",
    options: [
      "--backend NAME cuda (default), vulkan, cpu",
      "--shape NAME   30b (default), tiny",
      "--codec NAME   form of the experts (default: q4_0)",
      "--runs N       rounds, in each of which every engine has its turn; the best counts (default 5)",
      "--count        instead: kernels of a layer beside llama.cpp's, and reads of a token, of small models; needs no GPU",
      ...peerOptions,
      "--out FILE     appends the rows as a dated table",
    ],
    load: async () => (await import("./gpu.ts")).gpuBench,
  },
  optimizer: {
    summary: "memory and time of an update with optimizer state in memory, on disk interleaved, and on disk one after another",
    options: [
      "--parameters N (default 32000000)",
      "--runs N       updates of each, in turns (default 7)",
      "--out DIR      folder of the files of state (default: that of temporary files)",
    ],
    load: async () => (await import("./optimizer.ts")).optimizerBench,
  },
  near: {
    summary: "bytes between ranks behind a gateway, with and without routing to the ranks that host a conversation's experts, and replicas",
    options: [
      "--windows N    windows of traffic with the operator's decision after each, before what is measured (default 26)",
      "--cases 5,6    some of the cases alone, counted from 1 (default: all)",
      "--runs N       rounds, in each of which every case has its turn; medians are printed (default 5)",
    ],
    load: async () => (await import("./near.ts")).nearBench,
  },
  planner: {
    summary: "balance, copies and time of placement policies against EPLB and the exact optimum",
    options: [rowNames, "--seed N       other traces than those of seed 1; --seeds 1,5 or 1-3 for several, one after another"],
    load: async () => (await import("./planner.ts")).plannerBench,
  },
};

/**
 * The count of rows that hold among those that are judged. A miss is a figure, not a failure of the benchmark, unless `strict`
 * asks for that.
 */
export function verdict(rows: readonly object[], strict: boolean): { readonly said: string; readonly code: number } {
  const judged = rows.filter((row): row is { ok: boolean } => "ok" in row && typeof row.ok === "boolean");
  const held = judged.filter((row) => row.ok).length;
  return { said: judged.length > 0 ? `${held} of ${judged.length} rows hold\n` : "", code: strict && held < judged.length ? 1 : 0 };
}
