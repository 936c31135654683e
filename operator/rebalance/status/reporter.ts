// At the end of every tick it makes the deployment plane's view, wakes that plane on relevant changes, and offers the ExpertPlacement
// status to its writer.
import type { ExpertPlacementStatus } from "../../../crds/expert-placement.ts";
import type { RebalanceView } from "../../deployment/ports.ts";
import type { Ref } from "../../kube/kube.ts";
import type { Observed } from "../observed.ts";
import type { PlanReport } from "../rollout/proposal.ts";
import { type PlacementStatusInput, PlacementStatusWriter, placementStatus, type StatusWriterPorts } from "./placement-status.ts";
import { changeKey, type Progress, rebalanceView } from "./view.ts";

export interface ReporterPorts extends StatusWriterPorts {
  onChange(ref: Ref): void;
}

export interface Reported extends Progress, Pick<PlacementStatusInput, "recommended"> {
  readonly report: PlanReport | undefined;
}

export class Reporter {
  readonly #ports: ReporterPorts;
  readonly #status: PlacementStatusWriter;
  #current: RebalanceView | undefined;
  #currentKey = "";
  #placement: ExpertPlacementStatus | undefined;

  constructor(ports: ReporterPorts) {
    this.#ports = ports;
    this.#status = new PlacementStatusWriter(ports);
  }

  get current(): RebalanceView | undefined {
    return this.#current;
  }

  get placement(): ExpertPlacementStatus | undefined {
    return this.#placement;
  }

  report(seen: Observed, reported: Reported): void {
    const { world, views, gateways, shape, signals, expertsAtRisk, uniqueBytes, holding, telemetry } = seen;
    const { report, lastRebalance, committed, stored } = seen.placement;
    const { drains, rollout, load, waiting, recommended } = reported;
    const running = rollout !== undefined;
    const epoch = committed?.epoch;
    const status = placementStatus({ report: reported.report ?? report, running, views, speeds: seen.ranks, load, recommended });
    this.#placement = status;
    // The first plan has a report before its object exists.
    if (status && stored) this.#status.offer(world.ref, status);
    const observed = { world, views, gateways, shape, signals, expertsAtRisk, uniqueBytes, holding, telemetry, lastRebalance, epoch };
    this.#current = rebalanceView({ ...observed, drains, rollout, load, waiting });
    const key = changeKey(this.#current);
    if (key === this.#currentKey) return;
    this.#currentKey = key;
    this.#ports.onChange(world.ref);
  }
}
