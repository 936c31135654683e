// A fault for each alert, as scraped series; rules.int.test.ts has promtool evaluate the chart's rules on them.

/** Values by selector, one a minute, in promtool's notation. */
type Series = Readonly<Record<string, string>>;

export interface Fault {
  readonly what: string;
  /** Differences from the healthy fleet; undefined: no such series. */
  readonly series: Readonly<Record<string, string | undefined>>;
  /** The firing alerts by time, with their labels but the severity. */
  readonly firing: Readonly<Record<string, Readonly<Record<string, Readonly<Record<string, string>>>>>>;
  /** Expected values of recordings, by expression. */
  readonly values?: Readonly<Record<string, { readonly at: string; readonly value: number }>>;
}

const moe = 'namespace="ns", deployment="moe"';
const job = 'training_namespace="ns", training_job="job"';
const leader = 'enodia_operator_leader{pod="operator-0"}';
const condition = (type: string, status: string): string => `enodia_deployment_condition{${moe}, type="${type}", status="${status}"}`;
const requests = (code: string): string => `enodia_gateway_requests_total{${moe}, endpoint="chat", code="${code}"}`;
const firstToken = (le: string): string => `enodia_gateway_time_to_first_token_seconds_bucket{${moe}, le="${le}"}`;
const autoscaled = (state: string): string => `enodia_autoscale_ranks{${moe}, state="${state}"}`;
const frozen = (reason: string): string => `enodia_autoscale_frozen{${moe}, reason="${reason}"}`;
const rolling = `enodia_operation_active{${moe}, type="Roll"}`;
const steady = (value: number): string => `${value}+0x180`;
const growing = (perMinute: number): string => `0+${perMinute}x180`;

export const healthy: Series = {
  [leader]: steady(1),
  'enodia_operator_leader{pod="operator-1"}': steady(0),
  [`enodia_deployment_replicas{${moe}, state="desired"}`]: steady(3),
  [`enodia_deployment_ranks{${moe}, state="active"}`]: steady(3),
  [`enodia_deployment_ranks{${moe}, state="lost"}`]: steady(0),
  [condition("Ready", "True")]: steady(1),
  [condition("Ready", "False")]: steady(0),
  [condition("TelemetryFresh", "True")]: steady(1),
  [condition("TelemetryFresh", "False")]: steady(0),
  [condition("Degraded", "False")]: steady(1),
  [condition("Degraded", "True")]: steady(0),
  [autoscaled("asked")]: steady(3),
  [autoscaled("least")]: steady(2),
  [autoscaled("most")]: steady(4),
  [frozen("SignalsMissing")]: steady(0),
  [frozen("ReplicasTaken")]: steady(0),
  [`enodia_telemetry_age_seconds{${moe}}`]: steady(4),
  [`enodia_rebalance_in_progress{${moe}}`]: steady(0),
  [`enodia_rebalance_deadline_timestamp_seconds{${moe}}`]: steady(60),
  [rolling]: steady(0),
  [`enodia_operation_deadline_timestamp_seconds{${moe}}`]: steady(600),
  [`enodia_rollout_rolled_back{${moe}}`]: steady(0),
  [requests("200")]: growing(120),
  [firstToken("0.1")]: growing(60),
  [firstToken("0.5")]: growing(120),
  [firstToken("+Inf")]: growing(120),
  [`enodia_gateway_tokens_total{${moe}, kind="output"}`]: growing(6000),
  [`enodia_worker_kv_blocks{${moe}, rank="0", state="used"}`]: steady(30),
  [`enodia_worker_kv_blocks{${moe}, rank="0", state="cached"}`]: steady(10),
  [`enodia_worker_kv_blocks{${moe}, rank="0", state="free"}`]: steady(60),
  [`enodia_training_created_timestamp_seconds{${job}}`]: steady(0),
  [`enodia_training_active{${job}}`]: steady(1),
  [`enodia_training_step{${job}}`]: growing(10),
  [`enodia_training_imbalance_ratio{${job}}`]: steady(1.4),
  [`enodia_training_failed{${job}, reason="NonFiniteLoss"}`]: steady(0),
  [`enodia_training_failed{${job}, reason="RestartLimit"}`]: steady(0),
};

const ofMoe = { namespace: "ns", deployment: "moe" };
const ofJob = { training_namespace: "ns", training_job: "job" };

/** Also states that only look like a fault. */
export const faults: readonly Fault[] = [
  {
    what: "all is well",
    series: {},
    firing: { "30m": {}, "2h": {}, "3h": {} },
    values: {
      "deployment:enodia_gateway_requests:rate5m": { at: "30m", value: 2 },
      "deployment:enodia_gateway_errors:ratio_rate5m": { at: "30m", value: 0 },
      'deployment:enodia_gateway_tokens:rate5m{kind="output"}': { at: "30m", value: 100 },
      // Half of the requests take under 0.1 s, the others uniformly up to 0.5 s.
      'deployment:enodia_gateway_time_to_first_token_seconds:quantile_rate5m{quantile="0.5"}': { at: "30m", value: 0.1 },
      'deployment:enodia_gateway_time_to_first_token_seconds:quantile_rate5m{quantile="0.99"}': { at: "30m", value: 0.492 },
      "deployment:enodia_worker_kv_used:ratio": { at: "30m", value: 0.3 },
      "count(deployment_type:enodia_deployment_trouble:bool) or vector(0)": { at: "30m", value: 0 },
    },
  },
  {
    what: "both replicas wait for the lease",
    series: { [leader]: steady(0) },
    firing: { "4m": {}, "6m": { EnodiaNoLeader: {} } },
  },
  {
    what: "no operator is scraped",
    series: { [leader]: undefined, 'enodia_operator_leader{pod="operator-1"}': undefined },
    firing: { "4m": {}, "6m": { EnodiaNoLeader: {} } },
  },
  {
    what: "the lease changes hands",
    series: { [leader]: "1+0x60 0+0x120", 'enodia_operator_leader{pod="operator-1"}': "0+0x62 1+0x120" },
    firing: { "1h3m": {}, "2h": {} },
  },
  {
    what: "fewer ranks serve than are wanted",
    series: { [condition("Ready", "True")]: steady(0), [condition("Ready", "False")]: steady(1) },
    firing: { "14m": {}, "16m": { EnodiaNotReady: ofMoe } },
    values: { 'deployment_type:enodia_deployment_trouble:bool{type="Ready"}': { at: "1m", value: 1 } },
  },
  {
    what: "a deployment is suspended, or has no ranks on purpose",
    series: {
      [condition("Ready", "True")]: steady(0),
      [condition("Ready", "False")]: steady(1),
      [`enodia_deployment_replicas{${moe}, state="desired"}`]: steady(0),
    },
    firing: { "16m": {}, "2h": {} },
  },
  {
    what: "every tenth request fails",
    series: { [requests("200")]: growing(108), [requests("500")]: growing(12) },
    firing: { "4m": {}, "12m": { EnodiaRequestsFail: ofMoe } },
    values: { "deployment:enodia_gateway_errors:ratio_rate5m": { at: "30m", value: 0.1 } },
  },
  {
    what: "every fiftieth request fails, and many are refused or given up by their clients",
    series: {
      [requests("200")]: growing(98),
      [requests("503")]: growing(2),
      [requests("429")]: growing(50),
      [requests("499")]: growing(50),
    },
    firing: { "12m": {}, "2h": {} },
  },
  {
    what: "nobody asks",
    series: { [requests("200")]: steady(0), [requests("500")]: steady(0) },
    firing: { "12m": {}, "2h": {} },
  },
  {
    what: "load comes no longer",
    series: { [`enodia_telemetry_age_seconds{${moe}}`]: "4+60x180" },
    firing: { "2m": {}, "5m": { EnodiaTelemetryStale: ofMoe } },
  },
  {
    what: "one rank's load is missing",
    series: { [condition("TelemetryFresh", "True")]: steady(0), [condition("TelemetryFresh", "False")]: steady(1) },
    firing: { "1m": {}, "3m": { EnodiaTelemetryStale: ofMoe } },
  },
  {
    what: "no NATS server is named",
    series: {
      [condition("TelemetryFresh", "True")]: steady(0),
      [`enodia_telemetry_age_seconds{${moe}}`]: undefined,
    },
    firing: { "5m": {}, "2h": {} },
  },
  {
    what: "a rank is lost and not replaced",
    series: {
      [`enodia_deployment_ranks{${moe}, state="active"}`]: steady(2),
      [`enodia_deployment_ranks{${moe}, state="lost"}`]: steady(1),
    },
    firing: { "1m": {}, "3m": { EnodiaRanksLost: ofMoe } },
  },
  {
    what: "a rank is lost for a minute",
    series: { [`enodia_deployment_ranks{${moe}, state="lost"}`]: "0+0x10 1+0x1 0+0x160" },
    firing: { "11m": {}, "12m": {}, "14m": {} },
  },
  {
    what: "a plan outlives its deadline",
    series: {
      [`enodia_rebalance_in_progress{${moe}}`]: steady(1),
      [`enodia_rebalance_deadline_timestamp_seconds{${moe}}`]: steady(120),
    },
    firing: { "3m": {}, "5m": { EnodiaRebalanceStalled: ofMoe } },
  },
  {
    what: "a plan is under way within its deadline",
    series: {
      [`enodia_rebalance_in_progress{${moe}}`]: steady(1),
      [`enodia_rebalance_deadline_timestamp_seconds{${moe}}`]: "600+60x180",
    },
    firing: { "5m": {}, "2h": {} },
  },
  {
    what: "the autoscaler stands still for a rank that is not heard",
    series: { [frozen("SignalsMissing")]: steady(1) },
    firing: { "29m": {}, "31m": { EnodiaAutoscalerHeld: ofMoe } },
  },
  {
    what: "the load asks for more ranks than the autoscaler may set",
    series: { [autoscaled("asked")]: steady(9) },
    firing: { "29m": {}, "31m": { EnodiaAutoscalerHeld: ofMoe } },
  },
  {
    what: "the load asks for the most ranks, and for more in bursts",
    series: { [autoscaled("asked")]: "4+0x20 9+0x20 4+0x140" },
    firing: { "31m": {}, "2h": {} },
  },
  {
    what: "all ranks are gone since nobody asks",
    series: {
      [`enodia_deployment_replicas{${moe}, state="desired"}`]: steady(0),
      [`enodia_deployment_ranks{${moe}, state="active"}`]: steady(0),
      [autoscaled("asked")]: undefined,
      [requests("200")]: steady(0),
    },
    firing: { "31m": {}, "2h": {} },
  },
  {
    what: "a roll was taken back, until the spec is corrected after an hour",
    series: { [`enodia_rollout_rolled_back{${moe}}`]: "0+0x4 1+0x60 0+0x115" },
    firing: { "4m": {}, "6m": { EnodiaRolledBack: ofMoe }, "1h6m": {} },
  },
  {
    what: "a roll outlives its deadline",
    series: { [rolling]: steady(1), [`enodia_operation_deadline_timestamp_seconds{${moe}}`]: steady(600) },
    firing: { "15m": {}, "17m": { EnodiaRollStalled: ofMoe } },
  },
  {
    what: "a roll of a minute, and another one after an hour within its deadline",
    series: { [rolling]: "1+0x1 0+0x60 1+0x120", [`enodia_operation_deadline_timestamp_seconds{${moe}}`]: "600+0x60 12000+0x120" },
    firing: { "17m": {}, "2h": {} },
  },
  {
    what: "a start outlives its deadline, for which other alerts are there",
    series: {
      [`enodia_operation_active{${moe}, type="Start"}`]: steady(1),
      [`enodia_operation_deadline_timestamp_seconds{${moe}}`]: steady(600),
    },
    firing: { "17m": {}, "2h": {} },
  },
  {
    what: "a job makes no step after its first twenty minutes",
    series: { [`enodia_training_step{${job}}`]: "0+10x20 200+0x160" },
    firing: { "59m": {}, "1h10m": { EnodiaTrainingStalled: ofJob } },
  },
  {
    what: "a job makes the same steps again after every restart",
    series: { [`enodia_training_step{${job}}`]: "0+1x24 0+1x24 0+1x24 0+1x24 0+1x24 0+1x24 0+1x24" },
    firing: { "59m": {}, "1h10m": { EnodiaTrainingStalled: ofJob } },
  },
  {
    what: "a job is suspended",
    series: { [`enodia_training_step{${job}}`]: steady(200), [`enodia_training_active{${job}}`]: steady(0) },
    firing: { "2h": {} },
  },
  {
    what: "a job's loss is no number",
    series: {
      [`enodia_training_active{${job}}`]: "1+0x10 0+0x170",
      [`enodia_training_failed{${job}, reason="NonFiniteLoss"}`]: "0+0x10 1+0x170",
    },
    firing: { "10m": {}, "11m": { EnodiaTrainingDiverged: ofJob } },
  },
  {
    what: "a job's pods failed too often",
    series: {
      [`enodia_training_active{${job}}`]: "1+0x10 0+0x170",
      [`enodia_training_failed{${job}, reason="RestartLimit"}`]: "0+0x10 1+0x170",
    },
    firing: { "10m": {}, "11m": { EnodiaTrainingFailed: { training_namespace: "ns", training_job: "job", reason: "RestartLimit" } } },
  },
  {
    what: "a job leaves most experts idle",
    series: { [`enodia_training_imbalance_ratio{${job}}`]: steady(3.5) },
    firing: { "9m": {}, "11m": { EnodiaTrainingImbalanced: ofJob } },
  },
  {
    what: "single steps of a job are uneven",
    series: { [`enodia_training_imbalance_ratio{${job}}`]: "1.4+0x20 6+0x5 1.4+0x150" },
    firing: { "25m": {}, "40m": {} },
  },
];
