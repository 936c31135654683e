// `enodia logs`: the logs of the pods of a deployment or training job and of the operator, merged by time; by request id where one is
// given. Reads through the API server with the rights of whoever asks. Not here: the streams (../pod-logs.ts), what a line is
// (../log-lines.ts).
import { parseArgs } from "node:util";
import { AppError } from "../../../crds/common.ts";
import { kubeFlags, kubeFlagsHelp, openCluster } from "../kube.ts";
import { concerns, isWanted, type Level, type LogLine, lineText, logLevels } from "../log-lines.ts";
import { subjectOf } from "../log-subject.ts";
import { whole } from "../options.ts";
import { asksForJson, outputFlag } from "../output-flag.ts";
import { followLogs, podsMax, type Reading, readLogs, sourcesOf } from "../pod-logs.ts";
import { untilInterrupted } from "../watch.ts";
import { listed } from "../words.ts";

const usage = `usage: enodia logs NAME [options]
       enodia logs job/NAME [options]

The logs of the pods of a MoEDeployment or a MoETrainingJob, and what the operator says of it, merged by time. An answer of the API names
its request in the header x-request-id; with --request the lines of that request are shown, across gateways and workers.

      --request ID         lines of this request only
      --component LIST     gateway, worker, seed, downloader, operator, and of a job training, operator, with commas between
                           (default: all)
      --level LEVEL        lines of this level and above: ${logLevels.join(", ")}
  -f, --follow             goes on until Ctrl-C, with pods that come later too
      --tail N             newest lines of each pod (default 200; with --request 10000)
      --since SECONDS      lines that are no older
      --previous           of the processes before, where containers were restarted
  -o, --output json        one JSON object a line, for programs
${kubeFlagsHelp}

example   enodia logs smol-moe -n serving --level warn -f`;

export const options = {
  ...kubeFlags,
  request: { type: "string" },
  ...outputFlag,
  component: { type: "string" },
  level: { type: "string" },
  follow: { type: "boolean", short: "f", default: false },
  tail: { type: "string" },
  since: { type: "string" },
  previous: { type: "boolean", default: false },
  help: { type: "boolean", short: "h", default: false },
} as const;

/** Names are padded to the longest, and to no more than this. */
const sourceWidthMax = 40;

export async function run(args: readonly string[]): Promise<number> {
  const { values, positionals } = parseArgs({ args: [...args], allowPositionals: true, options });
  if (values.help) {
    process.stdout.write(`${usage}\n`);
    return 0;
  }
  const subject = subjectOf(positionals);
  const json = asksForJson(values);
  const request = values.request;
  const wanted = { request, level: levelOf(values.level) };
  const reading: Reading = {
    tail: whole(values.tail, "--tail", 1, 100_000) ?? (request === undefined ? 200 : 10_000),
    sinceSeconds: whole(values.since, "--since", 1, 31_536_000),
    previous: values.previous,
  };
  const chosen = componentsOf(values.component, subject.components);
  const cluster = openCluster(values);
  const { namespace } = cluster;
  const find = () => sourcesOf(cluster, { namespace, subject }, chosen);
  const sources = await find();
  if (sources.length === 0)
    throw new AppError(`"${subject.name}" has no pods in namespace ${namespace}; see: ${subject.status} ${subject.name}`, {
      code: "NotFound",
    });
  if (sources.length > podsMax) note(`${sources.length} pods, of which ${podsMax} are shown; --component shows fewer`);
  const own = new Set(sources.filter(({ component }) => component === "operator").map(({ pod }) => pod));
  const tell = (lines: readonly LogLine[]): void => {
    const shown = lines.filter((line) => isWanted(line, wanted) && (!own.has(line.source) || concerns(line, namespace, subject)));
    write(shown, json);
  };
  if (values.follow) {
    await untilInterrupted((signal) => followLogs(cluster.transport, find, { reading, tell, signal }));
    return 0;
  }
  const { lines, without } = await readLogs(cluster.transport, sources, reading);
  tell(lines);
  for (const { pod, why } of without) note(`${pod}: ${why}`);
  return without.length === sources.length ? 1 : 0;
}

const note = (text: string): void => void process.stderr.write(`enodia: ${text}\n`);

function write(lines: readonly LogLine[], json: boolean): void {
  const width = Math.min(sourceWidthMax, Math.max(0, ...lines.map(({ source }) => source.length)));
  const texts = lines.map((line) =>
    json ? JSON.stringify({ ...line.fields, at: line.at, pod: line.source, message: line.text }) : lineText(line, width),
  );
  if (texts.length > 0) process.stdout.write(`${texts.join("\n")}\n`);
}

function levelOf(text: string | undefined): Level | undefined {
  const level = logLevels.find((one) => one === text);
  if (level !== undefined || text === undefined) return level;
  throw new AppError(`--level: "${text}" is none of ${logLevels.join(", ")}`, { code: "BadOption" });
}

function componentsOf(text: string | undefined, components: readonly string[]): readonly string[] {
  if (text === undefined) return components;
  const names = text.split(",").map((one) => one.trim());
  const unknown = names.filter((one) => !components.some((known) => known === one));
  if (unknown.length === 0) return names;
  throw new AppError(`--component: ${listed(unknown, 3)} is none of ${components.join(", ")}`, { code: "BadOption" });
}
