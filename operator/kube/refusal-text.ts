// The text of an API server's refusal in terms of the spec. Pure.

export interface Refusal {
  /** The reason of SpecAccepted=False. */
  readonly reason: string;
  readonly message: string;
}

/** A field path as validation, strict decoding and server-side apply write it. */
const podField = /(^|[\s"([])\.?(spec|metadata)\.(?=[a-z])/g;
const templateField = /(^|[\s"([])\.?spec\.template\.(?=[a-z])/g;

export function podRefusal(message: string): Refusal {
  const field = "spec.podTemplate";
  const text = message.replace(podField, `$1${field}.$2.`);
  return { reason: "PodRefused", message: `the API server refuses the worker pod: ${text}${remedy(message, field)}` };
}

export function objectRefusal(kind: string, name: string, message: string): string {
  if (kind !== "Deployment") return `the API server refuses ${kind} ${name}: ${message}`;
  const field = "spec.gateway.podTemplate";
  return `the API server refuses ${kind} ${name}: ${message.replace(templateField, `$1${field}.`)}${remedy(message, field)}`;
}

/** Refusals that name the kind of an object instead of a path. */
const named: readonly (readonly [text: RegExp, path: string])[] = [
  [/PriorityClass/, ".spec.priorityClassName"],
  [/RuntimeClass/, ".spec.runtimeClassName"],
];

function remedy(message: string, field: string): string {
  if (message.includes("exceeded quota")) return `; raise the quota or lower what ${field} asks for`;
  return `; correct ${field}${named.find(([text]) => text.test(message))?.[1] ?? ""}`;
}
