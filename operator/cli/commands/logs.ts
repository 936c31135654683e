// `enodia logs`: logs of a deployment's or job's pods and of the operator, merged by time.
import { AppError } from "../../../crds/common.ts";
import { argument, choice, declare, flag, text, value } from "../command.ts";
import { openCluster } from "../kube.ts";
import { concerns, type LogLine, lineText, logLevels, matches } from "../log-lines.ts";
import { subjectOf, subjects } from "../log-subject.ts";
import { asksForJson, clusterOptions, namesOf, outputOptions, whole } from "../options.ts";
import { followLogs, podsMax, type Reading, readLogs, sourcesOf } from "../pod-logs.ts";
import { untilInterrupted } from "../watch.ts";

const sourceWidthMax = 40;

const components = [...new Set(Object.values(subjects).flatMap((one) => one.components))];

export const command = declare({
  about:
    "The logs of the pods of a MoEDeployment or a MoETrainingJob, and what the operator says of it, merged by time. An answer of the API names its request in the header x-request-id; with --request the lines of that request are shown, across gateways and workers.",
  arguments: [argument("<name>", "a MoEDeployment, or job/NAME for a MoETrainingJob", { moeDeployments: "", moeTrainingJobs: "job/" })],
  options: {
    ...clusterOptions,
    ...outputOptions,
    request: text("--request <id>", "lines of this request only"),
    component: value("--component <list>", `${components.join(", ")}, with commas between (default: all)`, namesOf(components)),
    level: choice("--level <level>", "lines of this level and above", logLevels),
    follow: flag("-f, --follow", "goes on until Ctrl-C, with pods that come later too"),
    tail: value("--tail <number>", "newest lines of each pod (default: 200; with --request 10000)", whole(1, 100_000)),
    since: value("--since <seconds>", "lines that are no older", whole(1, 31_536_000)),
    previous: flag("--previous", "of the processes before, where containers were restarted"),
  },
  notes: "example   enodia logs smol-moe -n serving --level warn -f",
  async action({ request, level, tail, since, previous, follow, component, ...options }, name) {
    const subject = subjectOf(name);
    const json = asksForJson(options);
    const reading: Reading = { tail: tail ?? (request === undefined ? 200 : 10_000), sinceSeconds: since, previous };
    const foreign = component?.find((one) => !subject.components.includes(one));
    if (foreign !== undefined)
      throw new AppError(`--component: ${foreign} is none of ${subject.components.join(", ")}`, { code: "BadOption" });
    const cluster = openCluster(options);
    const { namespace } = cluster;
    const find = () => sourcesOf(cluster, { namespace, subject }, component ?? subject.components);
    const sources = await find();
    if (sources.length === 0)
      throw new AppError(`"${subject.name}" has no pods in namespace ${namespace}; see: ${subject.status} ${subject.name}`, {
        code: "NotFound",
      });
    if (sources.length > podsMax) note(`${sources.length} pods, of which ${podsMax} are shown; --component shows fewer`);
    const own = new Set(sources.filter((source) => source.component === "operator").map(({ pod }) => pod));
    const tell = (lines: readonly LogLine[]): void => {
      const shown = lines.filter(
        (line) => matches(line, { request, level }) && (!own.has(line.source) || concerns(line, namespace, subject)),
      );
      write(shown, json);
    };
    if (follow) {
      await untilInterrupted((signal) => followLogs(cluster.transport, find, { reading, tell, signal }));
      return 0;
    }
    const { lines, without } = await readLogs(cluster.transport, sources, reading);
    tell(lines);
    for (const { pod, why } of without) note(`${pod}: ${why}`);
    return without.length === sources.length ? 1 : 0;
  },
});

const note = (text: string): void => void process.stderr.write(`enodia: ${text}\n`);

function write(lines: readonly LogLine[], json: boolean): void {
  const width = Math.min(sourceWidthMax, Math.max(0, ...lines.map(({ source }) => source.length)));
  const texts = lines.map((line) =>
    json ? JSON.stringify({ ...line.fields, at: line.at, pod: line.source, message: line.text }) : lineText(line, width),
  );
  if (texts.length > 0) process.stdout.write(`${texts.join("\n")}\n`);
}
