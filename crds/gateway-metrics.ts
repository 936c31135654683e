// The metrics that gateways alone record.
import { gateway, latency, stalling } from "./metric-definition.ts";
import { failoverReasons, memberStates, prefixUpdates, requestRefusals, routingReasons, stallParts, suspectReasons } from "./names.ts";
import { rankRoles } from "./roles.ts";

const endpoint = ["chat", "completions", "responses", "embeddings", "models", "other"] as const;

export const gatewayMetrics = {
  enodia_gateway_requests_total: gateway.counter("HTTP requests by endpoint and status code; 499 = the client went away.", {
    endpoint,
    code: "open",
  }),
  enodia_gateway_requests_active: gateway.gauge("Admitted requests that a worker computes."),
  enodia_gateway_queue_requests: gateway.gauge("Admitted requests that wait, for a worker or in a worker's queue."),
  enodia_gateway_rejected_total: gateway.counter("Requests refused before any work, by reason.", { reason: requestRefusals }),
  enodia_gateway_ignored_fields_total: gateway.counter("Fields of requests that are not known and were ignored, by endpoint.", {
    endpoint,
  }),
  enodia_gateway_request_duration_seconds: gateway.histogram("From the parsed request to its last byte.", latency, { endpoint }),
  enodia_gateway_time_to_first_token_seconds: gateway.histogram("From the parsed request to its first token.", latency),
  enodia_gateway_inter_token_seconds: gateway.histogram(
    "Wait for a request's next token after its first, failovers included; a slow client adds nothing.",
    latency,
  ),
  enodia_gateway_tokens_total: gateway.counter("Tokens read and written.", { kind: ["prompt", "output"] }),
  enodia_gateway_failovers_total: gateway.counter("Times a running request went on at another worker.", { reason: failoverReasons }),
  enodia_gateway_stall_seconds: gateway.histogram(
    "Waits of requests that went on at another worker: until the first was known to be gone, until the next computed, until its first token.",
    stalling,
    { part: stallParts },
  ),
  enodia_gateway_suspicions_total: gateway.counter("Times this gateway began to keep away from a worker, by reason.", {
    reason: suspectReasons,
  }),
  enodia_gateway_choices_total: gateway.counter("Ranks chosen, by what decided; home = it keeps the answer.", { by: routingReasons }),
  enodia_gateway_found_tokens_total: gateway.counter("Tokens of prompts that the chosen rank was known to have computed."),
  enodia_gateway_prefix_updates_total: gateway.counter("Updates of what ranks hold; gap = one was missed.", { kind: prefixUpdates }),
  enodia_gateway_failed_total: gateway.counter("Accepted requests that ended with an error."),
  enodia_gateway_cancelled_total: gateway.counter("Requests whose client went away."),
  enodia_gateway_workers: gateway.gauge("Workers in the membership this gateway knows, by state.", { state: memberStates }),
  enodia_gateway_role_requests_total: gateway.counter("Requests sent to ranks, by the rank's role, where ranks have roles.", {
    role: [...rankRoles, "both"],
  }),
  enodia_gateway_handover_seconds: gateway.histogram("From the token of a rank for prefill to the next one, of another rank.", stalling),
};
