// `enodia doctor`: asks the cluster what an install needs, and where there is one, how it stands. Changes nothing: what it posts are
// reviews of rights and one dry run. Not here: the questions (../doctor/, one file each).
import { parseArgs } from "node:util";
import { count, examine } from "../doctor/index.ts";
import { findOperators } from "../doctor/operator.ts";
import { doctorText } from "../doctor-text.ts";
import { kubeFlags, kubeFlagsHelp, openCluster } from "../kube.ts";
import { asksForJson, outputFlag, outputFlagHelp } from "../output-flag.ts";
import { version } from "../version.ts";
import { pause } from "../watch.ts";

const usage = `usage: enodia doctor [options]

Before an install: whether the cluster has what the chart, the ranks and their models need. With one: whether the operator leads, has its
rights and the CRDs of its version, and hears its deployments. Says what to do about each thing that is not well. Changes nothing.

${outputFlagHelp}
${kubeFlagsHelp}
                         here: of the deployments that there are to be

Exits with 1 when something failed. What could not be asked counts as neither.

example   enodia doctor -n serving`;

export const options = { ...kubeFlags, ...outputFlag, help: { type: "boolean", short: "h", default: false } } as const;

export async function run(args: readonly string[]): Promise<number> {
  const { values } = parseArgs({ args: [...args], options });
  if (values.help) {
    process.stdout.write(`${usage}\n`);
    return 0;
  }
  const json = asksForJson(values);
  const { kube, transport, namespace } = openCluster(values);
  const operators = await findOperators(kube);
  const over = new AbortController();
  const context = { kube, transport, namespace, operators, version, now: new Date(), sleep: pause, signal: over.signal };
  const examined = await examine(context);
  over.abort();
  process.stdout.write(`${json ? JSON.stringify(examined, null, 2) : doctorText(examined)}\n`);
  return count(examined).fail > 0 ? 1 : 0;
}
