// spec.gateway.httpRoute: the Gateway API's Gateways, host names and timeouts.
import { z } from "zod";
import { rules } from "./openapi.ts";

const bounds = { parents: 8, hostnames: 16, prefixLength: 256, headerLength: 256, nameLength: 253, labelLength: 63 } as const;

/** The Gateway API's durations; zero = none. */
const timeout = (description: string) =>
  z
    .string()
    .max(24)
    .regex(/^([0-9]{1,5}(h|m|s|ms)){1,4}$/)
    .default("0s")
    .meta({ description: `${description} A duration such as 10m; 0s = without an end.` });

const parentRef = z.object({
  name: z
    .string()
    .min(1)
    .max(bounds.nameLength)
    .regex(/^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/)
    .meta({ description: "Name of a Gateway." }),
  namespace: z
    .string()
    .min(1)
    .max(bounds.labelLength)
    .regex(/^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/)
    .optional()
    .meta({ description: "Its namespace, that of the deployment when not given; its listeners must allow routes from here." }),
  sectionName: z
    .string()
    .min(1)
    .max(bounds.nameLength)
    .regex(/^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/)
    .optional()
    .meta({ description: "The one of its listeners that is meant; all when not given." }),
});

export const gatewayRoute = z
  .object({
    parentRefs: z
      .array(parentRef)
      .min(1)
      .max(bounds.parents)
      .meta({ description: "Gateways that clients come in by.", "x-kubernetes-list-type": "atomic" }),
    hostnames: z
      .array(
        z
          .string()
          .min(1)
          .max(bounds.nameLength)
          .regex(/^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/),
      )
      .min(1)
      .max(bounds.hostnames)
      .optional()
      .meta({
        description: "Names that clients ask under, * as the first part = any; all names of the listeners when not given.",
        "x-kubernetes-list-type": "atomic",
      }),
    pathPrefix: z
      .string()
      .max(bounds.prefixLength)
      .regex(/^(\/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+$/)
      .optional()
      .meta({ description: "What stands before /v1 outside, such as /chat, and is taken off by the Gateway; nothing when not given." }),
    modelHeader: z
      .string()
      .min(1)
      .max(bounds.headerLength)
      .regex(/^[A-Za-z0-9!#$%&'*+\-.^_|~]+$/)
      .optional()
      .meta({
        description:
          "A request header that must have the served model's name, such as X-Gateway-Model-Name, which body-based routers write: so several deployments share a hostname. None when not given.",
      }),
    timeouts: z
      .object({
        request: timeout("How long a client's whole request may take at the Gateway, streams to their end."),
        backendRequest: timeout("The same for one try at a gateway pod."),
      })
      .prefault({})
      .meta({
        description: "How long the Gateway waits. A stream takes as long as its answer.",
        ...rules({
          // The server checks the default before it fills in the default's own fields.
          rule: "!has(self.request) || !has(self.backendRequest) || duration(self.request) == duration('0s') || duration(self.backendRequest) <= duration(self.request)",
          message: "backendRequest must not be above request",
          fieldPath: ".backendRequest",
        }),
      }),
  })
  .optional()
  .meta({
    description:
      "When given, the operator makes an HTTPRoute of the Gateway API (gateway.networking.k8s.io/v1), named as the deployment, where the cluster has that API; the condition GatewayRouted says what the Gateways make of it.",
  });
export type GatewayRoute = NonNullable<z.infer<typeof gatewayRoute>>;
