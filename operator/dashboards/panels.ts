// Builders of dashboards from data. Deterministic, so that the generated JSON can be checked.
import {
  AnnotationQueryBuilder,
  type Dashboard,
  DashboardBuilder,
  DashboardCursorSync,
  DashboardLinkBuilder,
  DashboardLinkType,
  DatasourceVariableBuilder,
  QueryVariableBuilder,
  RowBuilder,
  ThresholdsConfigBuilder,
  ThresholdsMode,
  VariableRefresh,
} from "@grafana/grafana-foundation-sdk/dashboard";
import { DataqueryBuilder, PromQueryFormat } from "@grafana/grafana-foundation-sdk/prometheus";
import * as stat from "@grafana/grafana-foundation-sdk/stat";
import * as table from "@grafana/grafana-foundation-sdk/table";
import * as timeseries from "@grafana/grafana-foundation-sdk/timeseries";

/** In `expr`, `%` stands for the selectors of the variables. */
type Query = readonly [expr: string, legend: string];
export type Queries = readonly Query[];

interface PanelOptions {
  /** Value from which the panel is red. */
  readonly red?: number;
  readonly min?: number;
  /** Heading of the row that begins with this panel. */
  readonly part?: string;
  /** A panel of latencies, whose exemplars link to traces. */
  readonly traced?: boolean;
}

export interface Panel extends PanelOptions {
  readonly title: string;
  readonly description: string;
  readonly unit: string;
  readonly queries: Queries;
}

type PanelRow = readonly [title: string, description: string, unit: string, queries: Queries, more?: PanelOptions];

export function panel(...row: PanelRow): Panel {
  const [title, description, unit, queries, more] = row;
  return { title, description, unit, queries, ...more };
}

export const fromZero = (...row: PanelRow): Panel => ({ min: 0, ...panel(...row) });

export interface DashboardData {
  readonly name: string;
  /** Besides "enodia". */
  readonly tags: readonly string[];
  /** Labels that select the objects, wider first. */
  readonly variables: readonly string[];
  /** Shows one object, not all at first. */
  readonly one?: boolean;
  /** A metric that every such object has from its first scrape. */
  readonly known: string;
  /** Initial time range: "30m". */
  readonly back: string;
  readonly annotation: { readonly name: string; readonly expr: string };
  readonly stats: readonly Panel[];
  /** Tables of current values, a line per series. */
  readonly tables?: readonly Panel[];
  readonly series: readonly Panel[];
}

export const rate = "$__rate_interval";

const datasource = { type: "prometheus", uid: "$" + "{datasource}" };

const selectorOf = (labels: readonly string[]): string => labels.map((label) => `${label}=~"$${label}"`).join(", ");

const query = ([expr, legend]: Query, index: number, selector: string) =>
  new DataqueryBuilder()
    .refId(String.fromCharCode(65 + index))
    .expr(expr.replaceAll("%", selector))
    .legendFormat(legend);

const thresholds = (red: number) =>
  new ThresholdsConfigBuilder().mode(ThresholdsMode.Absolute).steps([
    { value: null, color: "green" },
    { value: red, color: "red" },
  ]);

function statPanel(panel: Panel, selector: string): stat.PanelBuilder {
  const builder = new stat.PanelBuilder().title(panel.title).description(panel.description).unit(panel.unit).datasource(datasource);
  if (panel.red !== undefined) builder.thresholds(thresholds(panel.red));
  panel.queries.forEach((each, i) => {
    builder.withTarget(query(each, i, selector));
  });
  return builder.span(6).height(4);
}

function tablePanel(panel: Panel, selector: string): table.PanelBuilder {
  const builder = new table.PanelBuilder().title(panel.title).description(panel.description).unit(panel.unit).datasource(datasource);
  panel.queries.forEach((each, i) => {
    builder.withTarget(query(each, i, selector).instant().format(PromQueryFormat.Table));
  });
  return builder.span(24).height(6);
}

function seriesPanel(panel: Panel, selector: string): timeseries.PanelBuilder {
  const builder = new timeseries.PanelBuilder()
    .title(panel.title)
    .description(panel.description)
    .unit(panel.unit)
    .datasource(datasource)
    .fillOpacity(8)
    .lineWidth(1);
  if (panel.min !== undefined) builder.min(panel.min);
  panel.queries.forEach((each, i) => {
    const asked = query(each, i, selector);
    builder.withTarget(panel.traced ? asked.exemplar(true) : asked);
  });
  return builder.span(12).height(8);
}

function labelVariable(label: string, from: string, one: boolean): QueryVariableBuilder {
  const variable = new QueryVariableBuilder(label)
    .label(label)
    .datasource(datasource)
    .query(`label_values(${from}, ${label})`)
    .refresh(VariableRefresh.OnTimeRangeChanged);
  return one ? variable : variable.multi(true).includeAll(true).allValue(".*");
}

export function dashboardOf(data: DashboardData): Dashboard {
  const { name, tags, variables, one = false, known, back, annotation } = data;
  const selector = selectorOf(variables);
  const builder = new DashboardBuilder(`Enodia / ${name}`)
    .uid(`enodia-${name.toLowerCase()}`)
    .tags(["enodia", ...tags])
    .refresh("10s")
    .time({ from: `now-${back}`, to: "now" })
    .timezone("browser")
    .tooltip(DashboardCursorSync.Crosshair)
    .editable()
    .link(new DashboardLinkBuilder("Enodia").type(DashboardLinkType.Dashboards).tags(["enodia"]).includeVars(true).keepTime(true))
    .withVariable(new DatasourceVariableBuilder("datasource").label("Data source").type("prometheus"));
  variables.forEach((label, i) => {
    const wider = selectorOf(variables.slice(0, i));
    builder.withVariable(labelVariable(label, wider === "" ? known : `${known}{${wider}}`, one));
  });
  builder.annotation(
    new AnnotationQueryBuilder()
      .name(annotation.name)
      .datasource(datasource)
      .enable(true)
      .iconColor("blue")
      .expr(annotation.expr.replaceAll("%", selector)),
  );
  for (const panel of data.stats) builder.withPanel(statPanel(panel, selector));
  for (const panel of data.tables ?? []) builder.withPanel(tablePanel(panel, selector));
  for (const panel of data.series) {
    if (panel.part !== undefined) builder.withRow(new RowBuilder(panel.part));
    builder.withPanel(seriesPanel(panel, selector));
  }
  return builder.build();
}
