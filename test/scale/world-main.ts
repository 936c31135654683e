// `npm run test:scale -- world`: one deployment of many ranks, for each number of them.
import { parseArgs } from "node:util";
import { AppError } from "../../crds/common.ts";
import { chartMemoryMiB } from "./operator-process.ts";
import { runWorld } from "./world.ts";

const usage = `usage: npm run test:scale -- world [--ranks N,N,...] [--layers N] [--experts N] [--steady SECONDS] [--json]
                                      [--memory MIB] [--profile FOLDER]

Brings up what \`npm run test:scale\` does, and one deployment of N ranks in it. Says what its operator takes until it serves,
while nothing changes but the load, to follow a changed load, to shrink by an eighth, and after the loss of a node of 8
ranks. Needs root.`;

const options = {
  ranks: { type: "string", default: "16,64,256" },
  layers: { type: "string", default: "58" },
  experts: { type: "string", default: "256" },
  steady: { type: "string", default: "60" },
  memory: { type: "string", default: String(chartMemoryMiB) },
  profile: { type: "string" },
  json: { type: "boolean", default: false },
  help: { type: "boolean", short: "h", default: false },
} as const;

/** Of load: the default of a deployment. */
const windowSeconds = 15;
/** One rank in so many leaves at the end. */
const leaving = 8;

export async function worldMain(argv: readonly string[]): Promise<void> {
  const { values } = parseArgs({ args: [...argv], options });
  if (values.help) return void process.stdout.write(`${usage}\n`);
  const [layers, experts, steadySeconds] = [values.layers, values.experts, values.steady].map(wholeNumber) as [number, number, number];
  for (const ranks of values.ranks.split(",").map(wholeNumber)) {
    const started = Date.now();
    const log = (line: string) => void process.stderr.write(`${((Date.now() - started) / 1000).toFixed(1).padStart(7)} s  ${line}\n`);
    const limits = { memoryMiB: wholeNumber(values.memory), profileFolder: values.profile };
    const shape = { ranks, layers, experts, shrinkBy: Math.ceil(ranks / leaving) };
    const row = await runWorld({ ...shape, ...limits, windowSeconds, steadySeconds, short: false, log });
    process.stdout.write(`${JSON.stringify(row, undefined, values.json ? 0 : 1)}\n`);
  }
}

function wholeNumber(text: string): number {
  if (/^[1-9]\d{0,3}$/.test(text)) return Number(text);
  throw new AppError(`"${text}" is no whole number from 1 to 9999`, { code: "InvalidOption" });
}
