// Checks the user's NATS (nats.url): credentials, TLS and message size.
import { AppError } from "../../../crds/common.ts";
import { loadMessageBytesMax } from "../../../crds/telemetry.ts";
import { type Check, fail, type NatsServer, type Outcome, ok, skip, warn } from "./check.ts";

const remedies: readonly (readonly [reason: RegExp, remedy: string])[] = [
  [
    /AuthorizationViolation/,
    "give --nats-credentials a token or .creds file that the server knows; in pods it is nats.auth.existingSecret",
  ],
  [/CredentialsNotFound/, "name a file with a token, a .creds file, or a folder with user.creds or token, and ca.crt"],
  [/certificate|self.signed/i, "put the CA of the server's certificate beside the credentials, as ca.crt in one folder"],
  [/TLS/i, "use nats:// for a server without TLS, and tls:// for one with it"],
];

export function judgeServer({ version, payloadBytesMax, encrypted, authenticated }: NatsServer, host: string): Outcome[] {
  const least = loadMessageBytesMax;
  const size = `${host}: messages have ${payloadBytesMax} bytes at most`;
  return [
    ok(`${host}: NATS ${version} answers`),
    payloadBytesMax >= least ? ok(size) : warn(`${size}, a load message may have ${least}`, `set max_payload of the server to ${least}`),
    encrypted
      ? ok(`${host}: the connection is TLS`)
      : warn(`${host}: no TLS, so the token is readable on the way`, "use tls:// and nats.tls.secretName"),
    authenticated
      ? ok(`${host}: the server asks for credentials, and takes these`)
      : warn(
          `${host}: the server asks for no credentials`,
          "let it ask for a token; load is signed, and whoever is let in may still flood it",
        ),
  ];
}

export function judgeAbsence(caught: unknown, host: string): Outcome {
  const { code, message } = AppError.from(caught);
  const text = `${code}: ${message}`;
  const known = remedies.find(([reason]) => reason.test(text))?.[1];
  return fail(
    `${host}: ${text}`,
    known ?? "start the server, or correct the address; deployments serve without it, and nothing is balanced",
  );
}

export const nats: Check = {
  name: "NATS",
  when: "always",
  run: async ({ nats: server, operators }) => {
    if (!server && operators?.length !== 0) return []; // the telemetry check covers an existing install
    if (!server) return [skip("not asked", "name your own server with --nats URL; the chart's comes with nats.enabled")];
    try {
      return judgeServer(await server.ask(), server.host);
    } catch (caught) {
      return [judgeAbsence(caught, server.host)];
    }
  },
};
