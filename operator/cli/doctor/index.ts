// The registry of checks, in order of output. A new check is a file and a line here.
import { AppError } from "../../../crds/common.ts";
import { admission } from "./admission.ts";
import { addresses, apiServer, metricsApi } from "./api-server.ts";
import { certificates } from "./certificates.ts";
import { type Check, type Context, type Level, levels, type Outcome, skip } from "./check.ts";
import { crds } from "./crds.ts";
import { modelSource } from "./disk-check.ts";
import { nats, telemetry } from "./nats.ts";
import { clocks, nodes } from "./nodes.ts";
import { leader, operators } from "./operator.ts";
import { installing, looking, operatorsRights } from "./permissions.ts";
import { claims, storageClasses } from "./storage.ts";

const checks: readonly Check[] = [
  apiServer,
  operators,
  leader,
  crds,
  installing,
  operatorsRights,
  looking,
  nodes,
  storageClasses,
  claims,
  modelSource,
  addresses,
  admission,
  clocks,
  nats,
  telemetry,
  certificates,
  metricsApi,
];

/** A longer check counts as unknown. */
const checkMsMax = 45_000;

export interface Examined {
  readonly check: string;
  readonly outcomes: readonly Outcome[];
}

/** Where operators may not be listed, the checks of an install run. */
export async function examine(context: Context, which: readonly Check[] = checks): Promise<Examined[]> {
  const installed = context.operators?.length !== 0;
  const fitting = which.filter(({ when }) => when === "always" || (when === "after") === installed);
  return Promise.all(fitting.map(async (check) => ({ check: check.name, outcomes: await outcomesOf(check, context) })));
}

async function outcomesOf(check: Check, context: Context): Promise<readonly Outcome[]> {
  const answered = new AbortController();
  const late = context.sleep(checkMsMax, answered.signal).then(() => [skip("not asked", `no answer within ${checkMsMax / 1000} s`)]);
  try {
    return await Promise.race([check.run(context), late]);
  } catch (caught) {
    return [skip("not asked", AppError.from(caught).message)];
  } finally {
    answered.abort();
  }
}

export function count(examined: readonly Examined[]): Readonly<Record<Level, number>> {
  const all = examined.flatMap(({ outcomes }) => outcomes);
  const entries = levels.map((level) => [level, all.filter((one) => one.level === level).length] as const);
  return Object.fromEntries(entries) as Record<Level, number>;
}
