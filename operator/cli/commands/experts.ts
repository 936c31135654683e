// `enodia experts`: the map of who has which experts of a deployment, in the terminal and as a picture. Reads the ExpertPlacement; changes
// nothing. ../expert-map.ts draws.
import { parseArgs } from "node:util";
import { AppError } from "../../../crds/common.ts";
import { parseExpertPlacement } from "../../../crds/expert-placement.ts";
import { planBounds } from "../../../crds/plan.ts";
import { resources } from "../../kube/kube.ts";
import { expertMap, expertsCommand, mapPicture, mapText } from "../expert-map.ts";
import { kubeFlags, kubeFlagsHelp, openCluster } from "../kube.ts";
import { deploymentName, whole } from "../options.ts";
import { writeOutput } from "../output-file.ts";
import { asksForJson, outputFlag, outputFlagHelp } from "../output-flag.ts";
import { pictureOutput } from "../svg.ts";
import { terminalScreen } from "../watch.ts";

const usage = `usage: enodia experts NAME [options]

The experts of a MoEDeployment on its ranks: a row for each rank, a cell for each expert, and in it how much of the expert's rows the rank
takes by the plan: over all layers, or in one. Beside it how many experts and expert replicas the rank has, their memory, and its measured load.

      --layer L          this layer alone
      --svg FILE         writes a picture too; an earlier one of this command is replaced
${outputFlagHelp}
${kubeFlagsHelp}`;

export const options = {
  ...kubeFlags,
  ...outputFlag,
  layer: { type: "string" },
  svg: { type: "string" },
  help: { type: "boolean", short: "h", default: false },
} as const;

export async function run(args: readonly string[]): Promise<number> {
  const { values, positionals } = parseArgs({ args: [...args], allowPositionals: true, options });
  if (values.help) {
    process.stdout.write(`${usage}\n`);
    return 0;
  }
  const name = deploymentName(positionals);
  const json = asksForJson(values);
  const layer = whole(values.layer, "--layer", 0, planBounds.layers - 1);
  const { kube, namespace } = openCluster(values);
  const found = await kube.get(resources.expertPlacements, { namespace, name });
  if (!found) {
    throw new AppError(
      `"${name}" has no plan in namespace ${namespace}: it appears when the first ranks report; see: enodia status ${name}`,
      {
        code: "NotFound",
      },
    );
  }
  const map = expertMap(parseExpertPlacement(found), layer);
  if (values.svg !== undefined) await writeOutput(pictureOutput(values.svg, "--svg", expertsCommand), mapPicture(map));
  process.stdout.write(`${json ? JSON.stringify(map) : mapText(map, terminalScreen.size().columns)}\n`);
  return 0;
}
