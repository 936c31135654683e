// The door of the gateways: API keys, TLS, browsers of other origins. Fields of spec.gateway (moe-deployment.ts).
import { z } from "zod";
import { rules } from "./openapi.ts";
import { secretName, secretRef } from "./secret-ref.ts";

const bounds = { origins: 32, originLength: 256 } as const;

export const apiKeySecretRef = z
  .object({
    name: secretName("Name of the Secret."),
    key: z.string().min(1).max(253).default("key").meta({ description: "Key inside the Secret." }),
  })
  .optional()
  .meta({ description: "When given, requests need `Authorization: Bearer <key>`; the Secret holds one valid key per line." });

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
