// Access to the gateways, and from them to ranks: API keys, TLS, CORS and routing fields of spec.gateway.
import { z } from "zod";
import { claimBounds } from "./gateway-jwt.ts";
import { defaultRoutingPolicy, routingPolicyNames, unknownFieldsModes } from "./names.ts";
import { rules } from "./openapi.ts";
import { secretName, secretRef } from "./secret-ref.ts";

const bounds = { origins: 32, originLength: 256, clients: 128, perMinute: 1_000_000_000, concurrent: 100_000 } as const;

export const apiKeySecretRef = z
  .object({
    name: secretName("Name of the Secret."),
    key: z.string().min(1).max(253).default("key").meta({ description: "Key inside the Secret." }),
  })
  .optional()
  .meta({
    description:
      "When given, requests need `Authorization: Bearer <key>`; the Secret holds one valid key per line, with the name of its client behind it where it has one.",
  });

export const gatewayTls = z
  .object({
    secretRef: secretRef(
      "The certificate, tls.crt, and its key, tls.key, as cert-manager writes them.",
      "Name of a Secret in the namespace of the deployment, of type kubernetes.io/tls.",
    ),
  })
  .optional()
  .meta({
    description:
      "When given, the gateways speak HTTPS alone. A renewed certificate is taken up without a restart, within a minute after the kubelet has updated the mounted Secret.",
  });

export const gatewayCors = z
  .object({
    allowOrigins: z
      .array(z.string().min(1).max(bounds.originLength))
      .min(1)
      .max(bounds.origins)
      .meta({
        description: "Origins whose pages may ask, as browsers send them (https://app.example.com); * alone = all.",
        ...rules({
          rule: "self.all(o, o == '*' ? size(self) == 1 : o.matches('^https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?$'))",
          message: "must be origins such as https://app.example.com, without a path; or * alone",
        }),
      }),
  })
  .optional()
  .meta({ description: "When given, browsers may call the gateways from pages of these origins. Keys are still needed." });

export const unknownFields = z.enum(unknownFieldsModes).default("Ignore").meta({
  description:
    "Fields of requests that the API does not have: Ignore leaves them out, logs each name once and counts them; Refuse answers 400. A field that changes the answer and is not built is refused by name in any case.",
});

export const routing = z.enum(routingPolicyNames).default(defaultRoutingPolicy).meta({
  description:
    "How a request's rank is chosen: PrefixAware weighs what ranks have computed of its prompt against their load; LoadAware goes by load, and by where conversations' experts are; RoundRobin by turns.",
});

export const prefixIsolation = z.boolean().default(false).meta({
  description:
    "Callers with another API key, or another client by its token, share nothing that was computed for their prompts, so that no answer's time tells of another's prompt. Without it, all do whose requests have the same cache_salt.",
});

/** CEL of spec.gateway. */
export const isolationNeedsNames = {
  rule: "!has(self.prefixIsolation) || !self.prefixIsolation || has(self.apiKeySecretRef) || has(self.jwt)",
  message: "prefixIsolation tells callers apart by their keys or tokens: set gateway.apiKeySecretRef or gateway.jwt, or leave it out",
};

const perMinute = (description: string) => z.int32().min(1).max(bounds.perMinute).optional().meta({ description });

/** Limits at each gateway. */
export const gatewayClient = z.object({
  name: z
    .string()
    .min(1)
    .max(claimBounds.clientLength)
    .regex(/^[!-~]+$/) // printable without spaces, like token claims: system:serviceaccount:team:batch
    .meta({ description: "Name that stands behind its keys in the Secret of apiKeySecretRef, or in its tokens (gateway.jwt)." }),
  requestsPerMinute: perMinute("Requests that it may begin in a minute."),
  tokensPerMinute: perMinute(
    "Tokens of prompts and answers in a minute. A request is taken while some are left, and what it takes beyond them is waited for.",
  ),
  concurrentRequests: z.int32().min(1).max(bounds.concurrent).optional().meta({ description: "Requests at once." }),
  priority: z.int32().min(-claimBounds.priority).max(claimBounds.priority).default(0).meta({
    description:
      "Priority of its requests among those that wait, the lowest first; a request may ask for a later place, and for no earlier one.",
  }),
});
export type GatewayClient = z.infer<typeof gatewayClient>;

export const gatewayClients = z
  .array(gatewayClient)
  .min(1)
  .max(bounds.clients)
  .optional()
  .meta({
    description:
      "Limits and priorities of clients. Each gateway counts for itself. Keys without a name, and names that are not listed, have no limits and priority 0.",
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["name"],
  });
