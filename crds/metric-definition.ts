// What a metric's definition says, and how one is written for the processes that record it.

export type ProcessKind = "operator" | "gateway" | "worker";
export type MetricType = "counter" | "gauge" | "histogram";

/** `open` is for values that code bounds, never user input. */
type LabelValues = readonly string[] | "open";

export interface MetricDefinition {
  readonly type: MetricType;
  readonly help: string;
  readonly in: readonly ProcessKind[];
  /** Decides whether the operator must name the deployment. */
  readonly per: "process" | "deployment";
  readonly labels: Readonly<Record<string, LabelValues>>;
  readonly buckets?: readonly number[];
}

type Labels = Readonly<Record<string, LabelValues>>;
type Scope = MetricDefinition["per"];

function recordedBy<const I extends readonly ProcessKind[], const S extends Scope>(processes: I, per: S) {
  const common = { in: processes, per } as const;
  return {
    counter: <const L extends Labels = typeof none>(help: string, labels: L = none as unknown as L) =>
      ({ type: "counter", help, labels, ...common }) as const,
    gauge: <const L extends Labels = typeof none>(help: string, labels: L = none as unknown as L) =>
      ({ type: "gauge", help, labels, ...common }) as const,
    histogram: <const L extends Labels = typeof none>(help: string, buckets: readonly number[], labels: L = none as unknown as L) =>
      ({ type: "histogram", help, labels, buckets, ...common }) as const,
  };
}

const none = {} as const;
export const every = recordedBy(["operator", "gateway", "worker"], "process");
export const natsUsers = recordedBy(["operator", "worker"], "process");
export const pods = recordedBy(["gateway", "worker"], "deployment");
export const gateway = recordedBy(["gateway"], "deployment");
export const worker = recordedBy(["worker"], "deployment");
export const operator = recordedBy(["operator"], "process");
export const managed = recordedBy(["operator"], "deployment");

/** Seconds. */
export const latency = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];
export const work = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5];
export const stalling = [0.05, 0.1, 0.25, 0.5, 1, 1.5, 2, 3, 5, 7.5, 10, 15, 30, 60];
export const moving = [0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600];
