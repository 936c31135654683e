// `enodia experts`: the map of a deployment's ExpertPlacement, in the terminal or as SVG (../expert-map.ts).
import { AppError } from "../../../crds/common.ts";
import { parseExpertPlacement } from "../../../crds/expert-placement.ts";
import { planBounds } from "../../../crds/plan.ts";
import { resources } from "../../kube/kube.ts";
import { expertMap } from "../../views/experts-view.ts";
import { argument, declare, text, value } from "../command.ts";
import { expertsCommand, mapSvg, mapText } from "../expert-map.ts";
import { openCluster } from "../kube.ts";
import { asksForJson, clusterOptions, outputOptions, whole } from "../options.ts";
import { writeOutput } from "../output-file.ts";
import { svgOutput } from "../svg.ts";
import { terminalScreen } from "../watch.ts";

export const command = declare({
  about:
    "The experts of a MoEDeployment on its ranks: a row for each rank, a cell for each expert, and in it how much of the expert's rows the rank takes by the plan: over all layers, or in one. Beside it how many experts and replicas the rank has, their memory, and its measured load.",
  arguments: [argument("<name>", "a MoEDeployment", { moeDeployments: "" })],
  options: {
    ...clusterOptions,
    ...outputOptions,
    layer: value("--layer <number>", "this layer alone", whole(0, planBounds.layers - 1)),
    svg: text("--svg <file>", "writes a picture too; an earlier one of this command is replaced"),
  },
  async action({ layer, svg, ...options }, name) {
    const json = asksForJson(options);
    const { kube, namespace } = openCluster(options);
    const found = await kube.get(resources.expertPlacements, { namespace, name });
    if (!found) {
      const why = "it appears when the first ranks report";
      throw new AppError(`"${name}" has no plan in namespace ${namespace}: ${why}; see: enodia status ${name}`, { code: "NotFound" });
    }
    const map = expertMap(parseExpertPlacement(found), layer);
    if (svg !== undefined) await writeOutput(svgOutput(svg, "--svg", expertsCommand), mapSvg(map));
    process.stdout.write(`${json ? JSON.stringify(map) : mapText(map, terminalScreen.size().columns)}\n`);
    return 0;
  },
});
