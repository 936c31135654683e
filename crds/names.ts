// This file lists the names on which schemas, configurations, command lines and registries have to agree, each list once. They
// are typed by these arrays, so that a name without its implementation does not compile. It holds nothing
// but names: an implementation declares what shared code may ask of it.

/** Policies by which placements are planned: `spec.rebalancing.policy`. */
export const policyNames = ["incremental", "hecate", "eplb"] as const;
export type PolicyName = (typeof policyNames)[number];
export const defaultPolicy: PolicyName = "incremental";

/** Auto moves experts; Recommend computes and publishes the plan but moves nothing; Off only measures. */
export const rebalancingModes = ["Auto", "Recommend", "Off"] as const;
export type RebalancingMode = (typeof rebalancingModes)[number];

/** Backends of pods, which run Linux: each computes in a worker on one kind of device. */
const podBackendNames = ["cpu", "cuda", "vulkan", "reference"] as const;
/** All, with those of workers that are started by hand on other systems. */
export const backendNames = [...podBackendNames, "metal"] as const;
export type BackendName = (typeof backendNames)[number];
/** What a worker may be told: a backend, or Auto for the first one that suits the machine. */
export const backendChoices = ["Auto", ...backendNames] as const;
/** Values of `spec.runtime.backend`. */
export const podBackendChoices = ["Auto", ...podBackendNames] as const;
export type BackendChoice = (typeof backendChoices)[number];
export const defaultBackend = "Auto" satisfies BackendChoice;

/** Stored forms of experts: `spec.runtime.expertCodec`, `--codec` and the parts of a model store. */
export const codecNames = ["q4_0", "iq4_nl", "f32", "f16", "bf16", "q8_0", "mxfp4", "source"] as const;
export type CodecName = (typeof codecNames)[number];
export const defaultCodec: CodecName = "q4_0";

/** Number types of the attention cache: `spec.runtime.kvType`. */
export const kvTypes = ["f32", "f16", "q8_0"] as const;
export type KvType = (typeof kvTypes)[number];

/** Optimizers and schedules of the learning rate in training: `spec.optimizer.name`, `spec.schedule.name` and `--schedule`. */
export const optimizerNames = ["adamw", "sgd"] as const;
export const scheduleNames = ["constant", "cosine"] as const;

/** Planners of training, deals of rows, and what becomes of copies after forward: fields of `spec.fssdp`. */
export const trainingPlannerNames = ["auto", "hecate", "ep", "late"] as const;
export type TrainingPlannerName = (typeof trainingPlannerNames)[number];
export const dispatchNames = ["Exact", "LocalFirst"] as const;
export type DispatchName = (typeof dispatchNames)[number];
export const rematerializeNames = ["Never", "AfterForward"] as const;

/** Formats that a client may ask for: `response_format.type`. */
export const formatNames = ["json_object", "json_schema"] as const;
/** Languages that an answer can be held to: the wire's `Sampling.constraint`. */
const constraintNames = [...formatNames, "tool_calls"] as const;
export type ConstraintName = (typeof constraintNames)[number];

/** Manual keeps the runtime image of a deployment until its owner names another; Auto follows the operator. */
export const imageRollouts = ["Manual", "Auto"] as const;
export type ImageRollout = (typeof imageRollouts)[number];
export const defaultImageRollout: ImageRollout = "Manual";

/** Who replaces ranks of an old template, and what becomes of a roll that fails: fields of `spec.rolloutStrategy`. */
export const rolloutTypes = ["RollingUpdate", "OnDelete"] as const;
export type RolloutType = (typeof rolloutTypes)[number];
export const onFailureChoices = ["RollBack", "Wait"] as const;
export type OnFailure = (typeof onFailureChoices)[number];

/** Ranks near one another or apart: `spec.scheduling.topology.mode`. */
export const topologyModes = ["Pack", "Spread"] as const;
export type TopologyMode = (typeof topologyModes)[number];

/** Schedulers that know groups of pods, each with its file in operator/deployment/gangs/, and the values of `spec.scheduling.gang`. */
const gangNames = ["Coscheduling", "Volcano"] as const;
export type GangName = (typeof gangNames)[number];
export const gangChoices = ["None", "Auto", ...gangNames] as const;
export type GangChoice = (typeof gangChoices)[number];
export const defaultGang: GangChoice = "None";

/** Levels a runtime process logs at, and those of them that the operator takes for itself and hands on. */
export const logLevels = ["trace", "debug", "info", "warn", "error", "silent"] as const;
export type LogLevel = (typeof logLevels)[number];
export const operatorLogLevels = ["debug", "info", "warn", "error"] as const satisfies readonly LogLevel[];
export type OperatorLogLevel = (typeof operatorLogLevels)[number];
export const defaultLogLevel: OperatorLogLevel = "info";

/**
 * Who may read the page that the operator serves: who may forward a port of its pod, who knows the token of a Secret, whoever reaches its
 * port, or each user of the cluster what that user may list.
 */
export const pageAccesses = ["PortForward", "Token", "Proxy", "ClusterToken"] as const;
export type PageAccess = (typeof pageAccesses)[number];

/** Kubernetes' own names of when an image is pulled. */
export const pullPolicies = ["Always", "IfNotPresent", "Never"] as const;
export type PullPolicy = (typeof pullPolicies)[number];

/** States of a rank in the membership that the operator sends to workers and gateways. */
export const memberStates = ["joining", "active", "draining", "lost"] as const;
export type MemberState = (typeof memberStates)[number];

/** Reasons for which a gateway goes on with a request at another worker. */
export const failoverReasons = ["lost", "draining", "silent", "error"] as const;
export type FailoverReason = (typeof failoverReasons)[number];

/** Reasons for which a process keeps away from a rank: no sign of life from it, its connection broke, or it answers with errors. */
export const suspectReasons = ["silent", "lost", "error"] as const;
export type SuspectReason = (typeof suspectReasons)[number];

/** Parts of a stall after a loss: at a gateway until the worker is known to be gone, until another one computes the request, and
 *  until it brings the next token; at a worker until a host is known to be gone, and until another one has the expert. */
export const stallParts = ["detection", "failover", "replay"] as const;
export const frameStallParts = ["detection", "repair"] as const;
export type FrameStallPart = (typeof frameStallParts)[number];

/** Where the rows of experts are counted: at their primaries alone, or at all ranks that have copies. */
export const trainingPlacements = ["primaries", "copies"] as const;

/** Reasons for which a training job fails for good. */
export const trainingFailures = ["NonFiniteLoss", "RestartLimit"] as const;
export type TrainingFailure = (typeof trainingFailures)[number];

/** The reasons of ScalingActive=False that are nobody's wish. */
export const autoscaleFaults = ["SignalsMissing", "ReplicasApplied", "ReplicasTaken", "ScaleFailed"] as const;
