// Lists of names that schemas, configurations and registries share. Types derive from them, so a name without an implementation does not
// compile.

/** `spec.rebalancing.policy`. */
export const policyNames = ["incremental", "hecate", "eplb"] as const;
export type PolicyName = (typeof policyNames)[number];
export const defaultPolicy: PolicyName = "incremental";

/** Recommend publishes the plan but moves nothing; Off only measures. */
export const rebalancingModes = ["Auto", "Recommend", "Off"] as const;
export type RebalancingMode = (typeof rebalancingModes)[number];

const podBackendNames = ["cpu", "cuda", "vulkan", "reference"] as const;
/** Adds backends of other systems, where workers are started by hand. */
export const backendNames = [...podBackendNames, "metal"] as const;
export type BackendName = (typeof backendNames)[number];
/** Auto takes the first backend that suits the machine. */
export const backendChoices = ["Auto", ...backendNames] as const;
/** `spec.runtime.backend`. */
export const podBackendChoices = ["Auto", ...podBackendNames] as const;
export type BackendChoice = (typeof backendChoices)[number];
export const defaultBackend = "Auto" satisfies BackendChoice;

/** `spec.runtime.expertCodec`, `--codec` and model stores. */
export const codecNames = ["q4_0", "iq4_nl", "f32", "f16", "bf16", "q8_0", "mxfp4", "source"] as const;
export type CodecName = (typeof codecNames)[number];
export const defaultCodec: CodecName = "q4_0";

/** `spec.experts.oversubscription`. */
export const oversubscriptionModes = ["Never", "Allow"] as const;
export type OversubscriptionMode = (typeof oversubscriptionModes)[number];
export const defaultOversubscription: OversubscriptionMode = "Never";

/** Predictors of experts (runtime/experts/prefetch) and evictions (runtime/experts/cache), belady for replays alone. */
export const predictorNames = [
  "next-gate",
  "residual",
  "path",
  "transitions",
  "affinity",
  "last",
  "frequency",
  "ring",
  "batch",
  "random",
] as const;
export type PredictorName = (typeof predictorNames)[number];
export const evictionNames = ["lru", "lfu", "next-use", "belady"] as const;
export type EvictionName = (typeof evictionNames)[number];

/** `spec.runtime.kvType`. */
export const kvTypes = ["f32", "f16", "q8_0"] as const;
export type KvType = (typeof kvTypes)[number];

/** `spec.optimizer.name`, `spec.schedule.name` and `--schedule`. */
export const optimizerNames = ["adamw", "sgd"] as const;
export const scheduleNames = ["constant", "cosine"] as const;

/** Fields of `spec.fssdp`. */
export const trainingPlannerNames = ["auto", "hecate", "ep", "late"] as const;
export type TrainingPlannerName = (typeof trainingPlannerNames)[number];
export const dispatchNames = ["Exact", "LocalFirst"] as const;
export type DispatchName = (typeof dispatchNames)[number];
export const rematerializeNames = ["Never", "AfterForward"] as const;

/** `response_format.type`. */
export const formatNames = ["json_object", "json_schema"] as const;
/** The wire's `Sampling.constraint`. */
const constraintNames = [...formatNames, "regex", "choice", "tool_calls"] as const;
export type ConstraintName = (typeof constraintNames)[number];

/** Manual keeps the runtime image until its owner names another; Auto follows the operator. */
export const imageRollouts = ["Manual", "Auto"] as const;
export type ImageRollout = (typeof imageRollouts)[number];
export const defaultImageRollout: ImageRollout = "Manual";

/** Fields of `spec.rolloutStrategy`. */
export const rolloutTypes = ["RollingUpdate", "OnDelete"] as const;
export type RolloutType = (typeof rolloutTypes)[number];
export const onFailureChoices = ["RollBack", "Wait"] as const;
export type OnFailure = (typeof onFailureChoices)[number];

/** `spec.scheduling.topology.mode`. */
export const topologyModes = ["Pack", "Spread"] as const;
export type TopologyMode = (typeof topologyModes)[number];

/** `spec.scheduling.gang`; implementations in operator/gangs/. */
const gangNames = ["Coscheduling", "Volcano"] as const;
export type GangName = (typeof gangNames)[number];
export const gangChoices = ["None", "Auto", ...gangNames] as const;
export type GangChoice = (typeof gangChoices)[number];
export const defaultGang: GangChoice = "None";

export const logLevels = ["trace", "debug", "info", "warn", "error", "silent"] as const;
export type LogLevel = (typeof logLevels)[number];
export const operatorLogLevels = ["debug", "info", "warn", "error"] as const satisfies readonly LogLevel[];
export type OperatorLogLevel = (typeof operatorLogLevels)[number];
export const defaultLogLevel: OperatorLogLevel = "info";

/**
 * PortForward: whoever may forward a port of the pod. Token: whoever knows a Secret's token. Proxy: whoever reaches the port. ClusterToken:
 * each cluster user, by that user's rights.
 */
export const pageAccesses = ["PortForward", "Token", "Proxy", "ClusterToken"] as const;
export type PageAccess = (typeof pageAccesses)[number];

export const pullPolicies = ["Always", "IfNotPresent", "Never"] as const;
export type PullPolicy = (typeof pullPolicies)[number];

export const memberStates = ["joining", "active", "draining", "lost"] as const;
export type MemberState = (typeof memberStates)[number];

export const failoverReasons = ["lost", "draining", "silent", "error"] as const;
export type FailoverReason = (typeof failoverReasons)[number];

/** accept: by the kernel. address, total: more than the bound. handshake: TLS was not agreed on in time. */
export const connectionRefusals = ["accept", "address", "handshake", "total"] as const;
export type ConnectionRefusal = (typeof connectionRefusals)[number];

/** `spec.gateway.routing`. */
export const routingPolicyNames = ["PrefixAware", "LoadAware", "RoundRobin"] as const;
export type RoutingPolicyName = (typeof routingPolicyNames)[number];
/** How ranks tell gateways what they have of prompts. */
export const prefixUpdates = ["snapshot", "delta", "gap"] as const;
export type PrefixUpdate = (typeof prefixUpdates)[number];
/** What decided; home: it keeps the answer. */
export const routingReasons = ["prefix", "experts", "load", "hash", "rotation", "home"] as const;
export type RoutingReason = (typeof routingReasons)[number];
export const defaultRoutingPolicy = "PrefixAware" satisfies RoutingPolicyName;

/** `spec.gateway.unknownFields`. */
export const unknownFieldsModes = ["Ignore", "Refuse"] as const;
export type UnknownFields = (typeof unknownFieldsModes)[number];

/** Why a gateway refuses a request before any work. */
export const requestRefusals = [
  "queue_full",
  "quota",
  "no_worker",
  "unauthorized",
  "invalid",
  "context_length",
  "too_large",
  "issuer_away",
  "slow_body",
  "bodies_full",
] as const;
export type RequestRefusal = (typeof requestRefusals)[number];

/** silent: no sign of life. lost: a broken connection. error: errors in answers. */
export const suspectReasons = ["silent", "lost", "error"] as const;
export type SuspectReason = (typeof suspectReasons)[number];

/**
 * A gateway's stall lasts until the loss is known, then until another worker computes the request, then until its next token. A worker's
 * lasts until the loss is known, then until another host has the expert.
 */
export const stallParts = ["detection", "failover", "replay"] as const;
export const frameStallParts = ["detection", "repair"] as const;
export type FrameStallPart = (typeof frameStallParts)[number];
/** Labels `result` of experts that were loaded ahead. */
export const prefetchResults = ["useful", "late", "wasted"] as const;

export const frameResults = ["ok", "not_hosted", "busy", "rejected", "error"] as const;
export type FrameResult = (typeof frameResults)[number];

export const trainingPlacements = ["primaries", "copies"] as const;

/** A job with these reasons is not retried. */
export const trainingFailures = ["NonFiniteLoss", "RestartLimit"] as const;
export type TrainingFailure = (typeof trainingFailures)[number];

/** Reasons of ScalingActive=False that are faults. */
export const autoscaleFaults = ["SignalsMissing", "ReplicasApplied", "ReplicasTaken", "ScaleFailed"] as const;

/** Why a load message does not count. */
export const loadRefusals = [
  "malformed",
  "too_large",
  "unsigned",
  "no_key",
  "bad_signature",
  "unknown_deployment",
  "stale_boot",
  "clock_unknown",
  "late",
  "duplicate",
  "bad_seq",
  "bad_window",
  "rate",
] as const;
