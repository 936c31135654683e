// The list of rules, and how findings fold (DECISIONS.md 3). A new rule is a file and a line here. Pure.
import { conditionFindings, jobFindings } from "./condition-findings.ts";
import { eventFindings, overdueFindings, unseenFindings } from "./events.ts";
import { type Finding, type Observed, type Rule, type Severity, severities } from "./finding.ts";
import { podFindings } from "./pods.ts";

/** In order of output for one subject and severity. */
const rules: readonly Rule[] = [unseenFindings, podFindings, conditionFindings, jobFindings, eventFindings, overdueFindings];

export const findingsMax = 50;

export interface Judgement {
  readonly findings: readonly Finding[];
  readonly left: number;
}

export function judge(observed: Observed): Judgement {
  const all = rules.flatMap((rule) => rule(observed));
  const subjects = Map.groupBy(all, ({ kind, namespace, name }) => `${kind} ${namespace}/${name}`);
  const foldedFindings = [...subjects.values()].flatMap(folded);
  const sorted = foldedFindings.toSorted((a, b) => rank(a.severity) - rank(b.severity) || keyOf(a).localeCompare(keyOf(b)));
  return { findings: sorted.slice(0, findingsMax), left: Math.max(0, sorted.length - findingsMax) };
}

export function summaryOf(findings: readonly Finding[]): string {
  const urgent = findings.filter(({ severity }) => severity !== "info").length;
  return urgent === 0 ? "nothing is wrong" : `${urgent} ${urgent === 1 ? "thing is" : "things are"} wrong, the worst first`;
}

const rank = (severity: Severity): number => severities.indexOf(severity);
const keyOf = ({ kind, namespace, name }: Finding): string => `${namespace}/${name} ${kind}`;
const worst = (found: readonly Finding[]): Severity => severities.find((one) => found.some(({ severity }) => severity === one)) ?? "info";

function folded(found: readonly Finding[]): Finding[] {
  const effects = found.filter(({ role }) => role === "effect").toSorted((a, b) => rank(a.severity) - rank(b.severity));
  const causes = found.filter(({ role }) => role === "cause");
  const asides = found.filter(({ role }) => role === "aside");
  const [first, ...rest] = effects;
  if (!first) return [...causes, ...asides];
  if (causes.length === 0) return [withEffects(first, rest), ...asides];
  return [...causes.map((cause) => withEffects(cause, effects)), ...asides];
}

function withEffects(finding: Finding, effects: readonly Finding[]): Finding {
  if (effects.length === 0) return finding;
  // An effect's reason often repeats the cause: its first clause has the numbers.
  const effect = effects.map(({ what, why }) => `${what} (${clause(why)})`).join(", ");
  return { ...finding, severity: worst([finding, ...effects]), effect };
}

/** "RanksNotReady: 1 of 3 ranks serve: moe-0: ..." -> "1 of 3 ranks serve". */
const clause = (why: string): string => why.split(": ")[1] ?? why;
