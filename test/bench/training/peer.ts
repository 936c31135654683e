// The peer of training: the same model, tokens and ranks in torch (torch_ep.py), each rank beside ours under one quota and in one network.
// torch is not among our packages: it is run from an environment of its own in the cache, which is made on first use.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface, type Interface } from "node:readline";
import { microBatchIntervals } from "../../../runtime/placement/training/micro-batches.ts";
import { stop } from "../../kit/processes/process.ts";
import { pythonWith } from "../../kit/processes/python.ts";
import { within } from "../../kit/wait.ts";

import type { Network } from "./networks.ts";
import { batchOf, configOf, plantedModel, type Sizes, type WorkloadName } from "./workloads.ts";

const packages = ["torch==2.15.0", "numpy"];
const answerMs = 10 * 60_000;
const port = 29_500;

/** A Python that has torch: some gigabytes, as its packages are published with what GPUs need. */
export const torchPython = (log: (line: string) => void): Promise<string> => pythonWith("torch-2.15.0", packages, log);

interface Told {
  readonly ms: number;
  readonly cpuMs: number;
  readonly losses: readonly number[];
}

export interface PeerSetting {
  readonly python: string;
  readonly networks: readonly Network[];
  readonly sizes: Sizes;
  /** Puts a process under the quota of a rank. */
  join(rank: number, pid: number): void;
}

export class TorchPeer {
  readonly #folder = mkdtempSync(join(tmpdir(), "enodia-torch-"));
  readonly #sizes: Sizes;
  readonly #children: ChildProcess[] = [];
  readonly #lines: Interface[] = [];
  readonly #ended: Promise<never>[] = [];

  private constructor(sizes: Sizes) {
    this.#sizes = sizes;
  }

  static async start({ python, networks, sizes, join: joinGroup }: PeerSetting): Promise<TorchPeer> {
    const peer = new TorchPeer(sizes);
    try {
      peer.#writeModel(networks.length);
      await Promise.all(networks.map((network, rank) => peer.#launch(rank, python, networks, network)));
      for (const [rank, child] of peer.#children.entries()) joinGroup(rank, child.pid as number);
      return peer;
    } catch (caught) {
      await peer.close();
      throw caught;
    }
  }

  /** Steps from..to-1 of a workload that was given. */
  steps(workload: WorkloadName, from: number, to: number): Promise<Told[]> {
    const order = JSON.stringify({ workload, from, to });
    return Promise.all(
      this.#children.map(async (child, rank) => {
        const answer = this.#answer(rank);
        child.stdin?.write(`${order}\n`);
        return JSON.parse(await answer) as Told;
      }),
    );
  }

  /** Writes the tokens of a workload's first steps. */
  give(workload: WorkloadName, steps: number): void {
    const { sequences, sequenceLength } = this.#sizes;
    const tokens = new Int32Array(steps * sequences * 2 * sequenceLength);
    let at = 0;
    for (let step = 1; step <= steps; step++)
      for (const { inputs, targets } of batchOf(workload, step, this.#sizes))
        for (let row = 0; row < inputs.length; row += sequenceLength)
          for (const part of [inputs, targets]) {
            tokens.set(part.subarray(row, row + sequenceLength), at);
            at += sequenceLength;
          }
    writeFileSync(join(this.#folder, `${workload}.bin`), new Uint8Array(tokens.buffer));
  }

  async close(): Promise<void> {
    for (const child of this.#children) child.stdin?.end();
    await Promise.all(this.#children.map((child) => stop(child)));
    rmSync(this.#folder, { recursive: true, force: true });
  }

  #writeModel(ranks: number): void {
    const { layers, microBatches, sequences, sequenceLength } = this.#sizes;
    const { layout, parameters } = plantedModel(layers);
    const tensors = layout.parts
      .flatMap(({ units }) => units.flatMap((unit) => unit.parameters))
      .map(({ tensor, shape, from }) => [tensor, shape, from]);
    const share = sequences / microBatches;
    const sequencesOfRanks = microBatchIntervals(microBatches, new Array<number>(ranks).fill(1)).map(({ from, to }) => [
      from * share,
      to * share,
    ]);
    writeFileSync(join(this.#folder, "parameters.bin"), new Uint8Array(parameters.buffer));
    writeFileSync(join(this.#folder, "config.json"), JSON.stringify(configOf(layers)));
    writeFileSync(
      join(this.#folder, "run.json"),
      JSON.stringify({ tensors, sequences, sequenceLength, sequencesOfRanks, rate: 1e-6, clip: 1 }),
    );
  }

  async #launch(rank: number, python: string, networks: readonly Network[], network: Network): Promise<void> {
    const card = network.command.length > 0 ? "eth0" : "lo";
    const place = [this.#folder, `${rank}`, `${networks.length}`, networks[0]?.address ?? "", `${port}`];
    const script = [python, join(import.meta.dirname, "torch_ep.py"), ...place];
    const [program, ...args] = [...network.command, ...script] as [string, ...string[]];
    const env = Object.assign({}, process.env, { GLOO_SOCKET_IFNAME: card, OMP_NUM_THREADS: "1" });
    const child = spawn(program, args, { stdio: ["pipe", "pipe", "inherit"], env });
    this.#children[rank] = child;
    this.#lines[rank] = createInterface(child.stdout);
    const ended = once(child, "exit").then(([code]) => {
      throw new Error(`torch's rank ${rank} ended with ${code}`);
    });
    ended.catch(() => {}); // it is told to, at the end
    this.#ended[rank] = ended;
    await this.#answer(rank);
  }

  async #answer(rank: number): Promise<string> {
    const line = within(answerMs, once(this.#lines[rank] as Interface, "line"), `torch's rank ${rank} answers`);
    const [text] = (await Promise.race([line, this.#ended[rank]])) as [string];
    return text;
  }
}
