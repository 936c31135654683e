// Checks an issuer's token with jose, and reads the client that it names.
import { errors, type JWTPayload, type JWTVerifyGetKey, jwtVerify } from "jose";
import { AppError } from "../../../crds/common.ts";
import { claimBounds, type GatewayJwt } from "../../../crds/gateway-jwt.ts";
import { type Problem, problems } from "../problem.ts";

/** Public-key algorithms only: with `none`, or HS under a public key, anybody could sign. */
const algorithms = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"];
const clockToleranceSeconds = 30;
const tokenCharsMax = 8_192;
const compactForm = /^[\w-]+\.[\w-]+\.[\w-]*$/;

/** A client's name, or "", and the priority from its token. */
export interface Caller {
  readonly client: string;
  readonly priority?: number | undefined;
}

export const looksLikeToken = (text: string): boolean => compactForm.test(text);

export async function checkToken(token: string, jwt: GatewayJwt, find: JWTVerifyGetKey): Promise<Caller | { readonly problem: Problem }> {
  if (token.length > tokenCharsMax) return bad(`The token has ${token.length} characters, at most ${tokenCharsMax} are read.`);
  const { issuer, audience } = jwt;
  const expected = { issuer, audience, algorithms, clockTolerance: clockToleranceSeconds, requiredClaims: ["exp"] };
  try {
    const { payload } = await jwtVerify(token, find, expected);
    return callerOf(payload, jwt.claims);
  } catch (caught) {
    return { problem: problemOfToken(caught, jwt) };
  }
}

/** A configured claim without a usable value refuses the token, instead of admitting a nameless client. */
function callerOf(payload: JWTPayload, claims: GatewayJwt["claims"]): Caller | { readonly problem: Problem } {
  const { clientLength, priority: most } = claimBounds;
  const client = payload[claims.client];
  if (typeof client !== "string" || client === "" || client.length > clientLength)
    return bad(`The token's claim ${claims.client} must be a text of 1 to ${clientLength} characters: it names the client.`);
  const priority = claims.priority === undefined ? undefined : payload[claims.priority];
  if (priority === undefined) return { client };
  if (typeof priority !== "number" || !Number.isInteger(priority) || Math.abs(priority) > most)
    return bad(`The token's claim ${claims.priority} must be a whole number from -${most} to ${most}: it is the client's priority.`);
  return { client, priority };
}

function problemOfToken(caught: unknown, { issuer, audience }: GatewayJwt): Problem {
  if (caught instanceof AppError && caught.code === "IssuerAway")
    return problems.issuerAway(typeof caught.retry === "object" ? Math.ceil(caught.retry.afterMs / 1000) : 1);
  if (caught instanceof errors.JWTExpired) return problems.badToken("The token has expired: get a new one.");
  if (caught instanceof errors.JOSEAlgNotAllowed)
    return problems.badToken(`The token is signed in a way that is not taken: use one of ${algorithms.join(", ")}.`);
  if (caught instanceof errors.JWKSNoMatchingKey) return problems.badToken(`The token is signed with no key of ${issuer}.`);
  if (caught instanceof errors.JWKSMultipleMatchingKeys)
    return problems.badToken("The token must name its key (`kid`): the issuer has several.");
  if (caught instanceof errors.JWSSignatureVerificationFailed) return problems.badToken("The token's signature is wrong.");
  if (caught instanceof errors.JWTClaimValidationFailed) return problems.badToken(ofClaim[caught.claim]?.(issuer, audience) ?? unread);
  return problems.badToken(unread);
}

const unread = "The token cannot be read: send a signed JSON Web Token with `exp`.";
const ofClaim: Readonly<Record<string, (issuer: string, audience: string) => string>> = {
  iss: (issuer) => `The token is not of issuer ${issuer}.`,
  aud: (_, audience) => `The token is not for audience ${audience}.`,
  nbf: () => "The token is not valid yet.",
  exp: () => "The token never expires: only tokens with `exp` are taken.",
};

const bad = (message: string) => ({ problem: problems.badToken(message) });
