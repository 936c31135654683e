// Every query of the dashboards, and its metrics and labels. Tests compare these with crds/metrics.ts and with a scrape of running pods.
// Pure.

/** A question, and where it is asked. */
export interface Asked {
  readonly where: string;
  readonly expr: string;
}

export interface Use {
  /** Name as scraped, `_bucket` and the like are part of it, or as recorded. */
  readonly sample: string;
  /** Labels that the expression needs of it: selectors, `by`, and what `label_values` reads. */
  readonly labels: readonly string[];
  /** Labels that selectors hold to a fixed value. */
  readonly selected: readonly { readonly label: string; readonly value: string }[];
}

/** The part of Grafana's JSON that has questions in it. */
interface Panel {
  readonly title?: string;
  readonly targets?: readonly { readonly expr?: string }[];
  /** Panels inside a collapsed row. */
  readonly panels?: readonly Panel[];
}
interface Dashboard {
  readonly panels?: readonly Panel[];
  readonly templating?: { readonly list?: readonly { readonly name: string; readonly type: string; readonly query?: unknown }[] };
  readonly annotations?: {
    readonly list?: readonly { readonly name: string; readonly expr?: string; readonly target?: { readonly expr?: string } }[];
  };
}

/** The queries of panels, variables and annotations of Grafana's JSON. */
export function dashboardExpressions(dashboard: unknown): Asked[] {
  const { panels = [], templating, annotations } = dashboard as Dashboard;
  const variables = (templating?.list ?? []).filter(({ type }) => type === "query");
  return [
    ...panels.flatMap(panelExpressions),
    ...variables.map(({ name, query }) => ({ where: `variable ${name}`, expr: queryText(query) })),
    ...(annotations?.list ?? []).flatMap(({ name, expr, target }) => asked(`annotation ${name}`, expr ?? target?.expr)),
  ];
}

function panelExpressions({ title = "", targets = [], panels = [] }: Panel): Asked[] {
  return [...targets.flatMap(({ expr }) => asked(title, expr)), ...panels.flatMap(panelExpressions)];
}

const asked = (where: string, expr: string | undefined): Asked[] => (expr === undefined ? [] : [{ where, expr }]);

/** A variable's query is a text, or an object that has it. */
const queryText = (query: unknown): string =>
  typeof query === "string" ? query : String((query as { query?: unknown } | undefined)?.query);

const labelsIn = (list: string): string[] =>
  list
    .split(",")
    .map((label) => label.trim())
    .filter((label) => label !== "");

/** The metrics of an expression, with the labels in brackets and `by`. */
export function usesOf(expr: string): Use[] {
  const grouped = [...expr.matchAll(/\bby \(([^)]*)\) ?\(/g)].map(({ 0: head, 1: list = "", index }) => ({
    labels: labelsIn(list),
    from: index,
    to: closing(expr, index + head.length),
  }));
  const read = [...expr.matchAll(/\blabel_values\(.*,\s*(\w+)\)/g)].map(([, label = ""]) => label);
  // A recorded name has colons: deployment:enodia_x:rate5m.
  return [...expr.matchAll(/((?:\w+:)?enodia_\w+(?::\w+)?)(?:\{([^}]*)\})?/g)].map(({ 1: sample = "", 2: selector = "", index }) => {
    const by = grouped.filter(({ from, to }) => from < index && index < to).flatMap(({ labels }) => labels);
    const selected = [...selector.matchAll(/(\w+)\s*(?:=~?|!=|!~)\s*"([^"]*)"/g)].map(([, label = "", value = ""]) => ({ label, value }));
    return { sample, labels: [...new Set([...by, ...read, ...selected.map(({ label }) => label)])], selected };
  });
}

/** The place of the bracket that closes one before `from`. */
function closing(expr: string, from: number): number {
  let open = 1;
  for (let at = from; at < expr.length; at++) {
    if (expr[at] === "(") open++;
    else if (expr[at] === ")" && --open === 0) return at;
  }
  return expr.length;
}
