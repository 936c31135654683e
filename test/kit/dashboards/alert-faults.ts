// A fault for each alert, as scraped series; rules.int.test.ts has promtool evaluate the chart's rules on them.

/** Values by selector, one a minute, in promtool's notation. */
type Series = Readonly<Record<string, string>>;

export type Fault = readonly [
  what: string,
  /** Differences from the healthy fleet; undefined: no such series. */
  series: Readonly<Record<string, string | undefined>>,
  /** The firing alerts by time, with their labels but the severity. */
  firing: Readonly<Record<string, Readonly<Record<string, Readonly<Record<string, string>>>>>>,
  /** Expected values of recordings, by expression. */
  values?: Readonly<Record<string, { readonly at: string; readonly value: number }>>,
];

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
  [
    "all is well",
    {},
    { "30m": {}, "2h": {}, "3h": {} },
    {
      "deployment:enodia_gateway_requests:rate5m": { at: "30m", value: 2 },
      "deployment:enodia_gateway_errors:ratio_rate5m": { at: "30m", value: 0 },
      'deployment:enodia_gateway_tokens:rate5m{kind="output"}': { at: "30m", value: 100 },
      // Half of the requests take under 0.1 s, the others uniformly up to 0.5 s.
      'deployment:enodia_gateway_time_to_first_token_seconds:quantile_rate5m{quantile="0.5"}': { at: "30m", value: 0.1 },
      'deployment:enodia_gateway_time_to_first_token_seconds:quantile_rate5m{quantile="0.99"}': { at: "30m", value: 0.492 },
      "deployment:enodia_worker_kv_used:ratio": { at: "30m", value: 0.3 },
      "count(deployment_type:enodia_deployment_trouble:bool) or vector(0)": { at: "30m", value: 0 },
    },
  ],
  [
    "experts are loaded as fast as predicted, and then three times as slow",
    {
      [`enodia_expert_miss_load_seconds{${moe}, kind="predicted"}`]: steady(0.02),
      [`enodia_expert_miss_load_seconds{${moe}, kind="measured"}`]: "0.03+0x60 0.06+0x120",
    },
    { "30m": {}, "1h9m": {}, "1h20m": { EnodiaExpertLoadsSlow: ofMoe } },
  ],
  ["both replicas wait for the lease", { [leader]: steady(0) }, { "4m": {}, "6m": { EnodiaNoLeader: {} } }],
  [
    "no operator is scraped",
    { [leader]: undefined, 'enodia_operator_leader{pod="operator-1"}': undefined },
    { "4m": {}, "6m": { EnodiaNoLeader: {} } },
  ],
  [
    "the lease changes hands",
    { [leader]: "1+0x60 0+0x120", 'enodia_operator_leader{pod="operator-1"}': "0+0x62 1+0x120" },
    { "1h3m": {}, "2h": {} },
  ],
  [
    "fewer ranks serve than are wanted",
    { [condition("Ready", "True")]: steady(0), [condition("Ready", "False")]: steady(1) },
    { "14m": {}, "16m": { EnodiaNotReady: ofMoe } },
    { 'deployment_type:enodia_deployment_trouble:bool{type="Ready"}': { at: "1m", value: 1 } },
  ],
  [
    "a deployment is suspended, or has no ranks on purpose",
    {
      [condition("Ready", "True")]: steady(0),
      [condition("Ready", "False")]: steady(1),
      [`enodia_deployment_replicas{${moe}, state="desired"}`]: steady(0),
    },
    { "16m": {}, "2h": {} },
  ],
  [
    "every tenth request fails",
    { [requests("200")]: growing(108), [requests("500")]: growing(12) },
    { "4m": {}, "12m": { EnodiaRequestsFail: ofMoe } },
    { "deployment:enodia_gateway_errors:ratio_rate5m": { at: "30m", value: 0.1 } },
  ],
  [
    "every fiftieth request fails, and many are refused or given up by their clients",
    {
      [requests("200")]: growing(98),
      [requests("503")]: growing(2),
      [requests("429")]: growing(50),
      [requests("499")]: growing(50),
    },
    { "12m": {}, "2h": {} },
  ],
  ["nobody asks", { [requests("200")]: steady(0), [requests("500")]: steady(0) }, { "12m": {}, "2h": {} }],
  ["load comes no longer", { [`enodia_telemetry_age_seconds{${moe}}`]: "4+60x180" }, { "2m": {}, "5m": { EnodiaTelemetryStale: ofMoe } }],
  [
    "one rank's load is missing",
    { [condition("TelemetryFresh", "True")]: steady(0), [condition("TelemetryFresh", "False")]: steady(1) },
    { "1m": {}, "3m": { EnodiaTelemetryStale: ofMoe } },
  ],
  [
    "no NATS server is named, and no load came yet",
    {
      [condition("TelemetryFresh", "True")]: steady(0),
      [`enodia_telemetry_age_seconds{${moe}}`]: undefined,
    },
    { "5m": {}, "2h": {} },
  ],
  [
    "a rank is lost and not replaced",
    {
      [`enodia_deployment_ranks{${moe}, state="active"}`]: steady(2),
      [`enodia_deployment_ranks{${moe}, state="lost"}`]: steady(1),
    },
    { "1m": {}, "3m": { EnodiaRanksLost: ofMoe } },
  ],
  [
    "a rank is lost for a minute",
    { [`enodia_deployment_ranks{${moe}, state="lost"}`]: "0+0x10 1+0x1 0+0x160" },
    { "11m": {}, "12m": {}, "14m": {} },
  ],
  [
    "a plan outlives its deadline",
    {
      [`enodia_rebalance_in_progress{${moe}}`]: steady(1),
      [`enodia_rebalance_deadline_timestamp_seconds{${moe}}`]: steady(120),
    },
    { "3m": {}, "5m": { EnodiaRebalanceStalled: ofMoe } },
  ],
  [
    "a plan is under way within its deadline",
    {
      [`enodia_rebalance_in_progress{${moe}}`]: steady(1),
      [`enodia_rebalance_deadline_timestamp_seconds{${moe}}`]: "600+60x180",
    },
    { "5m": {}, "2h": {} },
  ],
  [
    "the autoscaler stands still for a rank that is not heard",
    { [frozen("SignalsMissing")]: steady(1) },
    { "29m": {}, "31m": { EnodiaAutoscalerHeld: ofMoe } },
  ],
  [
    "the load asks for more ranks than the autoscaler may set",
    { [autoscaled("asked")]: steady(9) },
    { "29m": {}, "31m": { EnodiaAutoscalerHeld: ofMoe } },
  ],
  ["the load asks for the most ranks, and for more in bursts", { [autoscaled("asked")]: "4+0x20 9+0x20 4+0x140" }, { "31m": {}, "2h": {} }],
  [
    "all ranks are gone since nobody asks",
    {
      [`enodia_deployment_replicas{${moe}, state="desired"}`]: steady(0),
      [`enodia_deployment_ranks{${moe}, state="active"}`]: steady(0),
      [autoscaled("asked")]: undefined,
      [requests("200")]: steady(0),
    },
    { "31m": {}, "2h": {} },
  ],
  [
    "a roll was rolled back, until the spec is corrected after an hour",
    { [`enodia_rollout_rolled_back{${moe}}`]: "0+0x4 1+0x60 0+0x115" },
    { "4m": {}, "6m": { EnodiaRolledBack: ofMoe }, "1h6m": {} },
  ],
  [
    "a roll outlives its deadline",
    { [rolling]: steady(1), [`enodia_operation_deadline_timestamp_seconds{${moe}}`]: steady(600) },
    { "15m": {}, "17m": { EnodiaRollStalled: ofMoe } },
  ],
  [
    "a roll of a minute, and another one after an hour within its deadline",
    { [rolling]: "1+0x1 0+0x60 1+0x120", [`enodia_operation_deadline_timestamp_seconds{${moe}}`]: "600+0x60 12000+0x120" },
    { "17m": {}, "2h": {} },
  ],
  [
    "a start outlives its deadline, for which other alerts are there",
    {
      [`enodia_operation_active{${moe}, type="Start"}`]: steady(1),
      [`enodia_operation_deadline_timestamp_seconds{${moe}}`]: steady(600),
    },
    { "17m": {}, "2h": {} },
  ],
  [
    "a job makes no step after its first twenty minutes",
    { [`enodia_training_step{${job}}`]: "0+10x20 200+0x160" },
    { "59m": {}, "1h10m": { EnodiaTrainingStalled: ofJob } },
  ],
  [
    "a job makes the same steps again after every restart",
    { [`enodia_training_step{${job}}`]: "0+1x24 0+1x24 0+1x24 0+1x24 0+1x24 0+1x24 0+1x24" },
    { "59m": {}, "1h10m": { EnodiaTrainingStalled: ofJob } },
  ],
  ["a job is suspended", { [`enodia_training_step{${job}}`]: steady(200), [`enodia_training_active{${job}}`]: steady(0) }, { "2h": {} }],
  [
    "a job's loss is no number",
    {
      [`enodia_training_active{${job}}`]: "1+0x10 0+0x170",
      [`enodia_training_failed{${job}, reason="NonFiniteLoss"}`]: "0+0x10 1+0x170",
    },
    { "10m": {}, "11m": { EnodiaTrainingDiverged: ofJob } },
  ],
  [
    "a job's pods failed too often",
    {
      [`enodia_training_active{${job}}`]: "1+0x10 0+0x170",
      [`enodia_training_failed{${job}, reason="RestartLimit"}`]: "0+0x10 1+0x170",
    },
    { "10m": {}, "11m": { EnodiaTrainingFailed: { training_namespace: "ns", training_job: "job", reason: "RestartLimit" } } },
  ],
  [
    "a job leaves most experts idle",
    { [`enodia_training_imbalance_ratio{${job}}`]: steady(3.5) },
    { "9m": {}, "11m": { EnodiaTrainingImbalanced: ofJob } },
  ],
  [
    "single steps of a job are uneven",
    { [`enodia_training_imbalance_ratio{${job}}`]: "1.4+0x20 6+0x5 1.4+0x150" },
    { "25m": {}, "40m": {} },
  ],
];
