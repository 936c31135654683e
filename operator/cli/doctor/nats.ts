// Checks the NATS server of the user (nats.url), and the telemetry that the operator reports for each deployment.
import { AppError } from "../../../crds/common.ts";
import { parseMoEDeployment } from "../../../crds/moe-deployment.ts";
import { loadMessageBytesMax } from "../../../crds/telemetry.ts";
import { resources } from "../../kube/kube.ts";
import { listed } from "../../views/format.ts";
import { type Check, conditionOf, fail, type NatsServer, type Outcome, ok, skip, warn } from "./check.ts";

const remedies: readonly (readonly [reason: RegExp, remedy: string])[] = [
  [
    /AuthorizationViolation/,
    "give --nats-credentials a token or .creds file that the server knows; in pods it is spec.telemetry.nats.credentialsSecretRef",
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

const namedMax = 4;

interface TelemetryFacts {
  readonly name: string;
  readonly status: string;
  readonly reason: string;
  readonly message: string;
}

export function judgeTelemetry(facts: readonly TelemetryFacts[]): Outcome[] {
  const fresh = facts.filter(({ status }) => status === "True").length;
  const without = facts.filter(({ reason }) => reason === "NotConfigured");
  const stale = facts.filter(({ status }) => status === "False");
  const byReason = Map.groupBy(stale, ({ reason }) => reason);
  const outcomes = [...byReason].map(([reason, those]) => {
    const names = listed(
      those.map(({ name }) => name),
      namedMax,
    );
    return warn(
      `${reason}: ${names}: ${those[0]?.message}`,
      "serving goes on and nothing is balanced; the message above says what to mend",
    );
  });
  if (without.length > 0) {
    const names = listed(
      without.map(({ name }) => name),
      namedMax,
    );
    outcomes.push(
      warn(
        `no load comes of ${names}, and no NATS server is named: nothing is balanced`,
        "give it the runtime image of this release, or set the chart's nats.enabled or nats.url",
      ),
    );
  }
  return outcomes.length > 0 ? outcomes : [ok(`load of ${fresh} of ${facts.length} deployments is heard`)];
}

export const telemetry: Check = {
  name: "telemetry",
  when: "after",
  run: async ({ kube }) => {
    const { items } = await kube.list(resources.moeDeployments);
    return judgeTelemetry(
      items.map((object) => {
        const { namespace, name } = parseMoEDeployment(object).metadata;
        return { name: `${namespace}/${name}`, ...conditionOf(object, "TelemetryFresh") };
      }),
    );
  },
};
