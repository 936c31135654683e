// spec.gateway.jwt: an OpenID Connect issuer whose tokens gateways accept.
import { z } from "zod";

const bounds = { urlLength: 512, audienceLength: 256, claimLength: 128 } as const;
/** Limits of claim values for client and priority, wider than those of clients in the spec. */
export const claimBounds = { clientLength: 253, priority: 1_000 } as const;

const httpsUrl = (description: string) =>
  z
    .string()
    .max(bounds.urlLength)
    .regex(/^https:\/\/[^\s/?#]+(\/[^\s?#]*)?$/)
    .meta({ description });
const claim = (description: string) => z.string().min(1).max(bounds.claimLength).meta({ description });

export const gatewayJwt = z.object({
  issuer: httpsUrl("The issuer, letter for letter as its tokens name it (`iss`)."),
  audience: z.string().min(1).max(bounds.audienceLength).meta({ description: "The audience that tokens must be issued for (`aud`)." }),
  jwksUri: httpsUrl("Where the issuer's keys are. When not given: what <issuer>/.well-known/openid-configuration names.").optional(),
  claims: z
    .object({
      client: claim("The claim that holds the name of the client, a text.").default("sub"),
      priority: claim(
        "The claim that holds the priority of the client's requests, a whole number from -1000 to 1000. It goes before that of gateway.clients. When not given, or where a token lacks it: that of gateway.clients.",
      ).optional(),
    })
    .prefault({})
    .meta({ description: "What the claims of a token say of its client." }),
});
export type GatewayJwt = z.infer<typeof gatewayJwt>;

export const gatewayJwtField = gatewayJwt.optional().meta({
  description:
    "When given, requests may show a token of this OpenID Connect issuer, `Authorization: Bearer <token>`, instead of an API key. Signatures RS, PS, ES and EdDSA are taken; `exp` is required.",
});

export const clientsNeedNames = {
  rule: "!has(self.clients) || has(self.apiKeySecretRef) || has(self.jwt)",
  message: "clients are known by their keys or tokens: set gateway.apiKeySecretRef or gateway.jwt, or leave clients out",
};
