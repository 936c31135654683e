// Checks certificates: leaves are renewed with a third of their day left, CAs with two of ten years. Reads no keys.
import { X509Certificate } from "node:crypto";
import { z } from "zod";
import { AppError, labels } from "../../../crds/common.ts";
import { type KubeObject, resources } from "../../kube/kube.ts";
import { listed, span } from "../../views/format.ts";
import { type Check, type Context, fail, type Outcome, ok, skip, warn } from "./check.ts";

const dayMs = 86_400_000;
/** Well below the time of renewal. */
const leafLeftMs = dayMs / 4;
const authorityLeftMs = 365 * dayMs;
const namedMax = 4;

const secretSchema = z.object({
  metadata: z.object({ name: z.string(), namespace: z.string() }),
  data: z.record(z.string(), z.string()).default({}),
});

export interface CertificateFacts {
  readonly name: string;
  readonly endsAt: Date;
  /** Renewal is overdue below this. */
  readonly leastMs: number;
}

export function judgeCertificates(certificates: readonly CertificateFacts[], now: Date): Outcome[] {
  const left = ({ endsAt }: CertificateFacts): number => endsAt.getTime() - now.getTime();
  const over = certificates.filter((one) => left(one) <= 0);
  const late = certificates.filter((one) => left(one) > 0 && left(one) < one.leastMs);
  const names = (of: readonly CertificateFacts[]): string =>
    listed(
      of.map(({ name }) => name),
      namedMax,
    );
  const logs = "enodia doctor checks the operator too; its log says why it does not renew";
  const found: Outcome[] = [];
  if (over.length > 0) found.push(fail(`${over.length} certificates have ended: ${names(over)}`, logs));
  if (late.length > 0)
    found.push(
      warn(
        `${late.length} certificates should have been renewed, the first ends in ${span(Math.min(...late.map(left)))}: ${names(late)}`,
        logs,
      ),
    );
  if (found.length > 0) return found;
  if (certificates.length === 0) return [ok("there are none yet")];
  return [ok(`${certificates.length} certificates, the first ends in ${span(Math.min(...certificates.map(left)))}`)];
}

function certificatesOf(object: KubeObject, entry: string, leastMs: number): CertificateFacts[] {
  const { metadata, data } = secretSchema.parse(object);
  const text = data[entry];
  if (text === undefined) return [];
  try {
    const certificate = new X509Certificate(Buffer.from(text, "base64"));
    return [{ name: `${metadata.namespace}/${metadata.name}`, endsAt: new Date(certificate.validTo), leastMs }];
  } catch {
    return []; // the operator replaces unreadable ones, or reports them in SpecAccepted
  }
}

export const certificates: Check = {
  name: "certificates",
  when: "after",
  run: async (context) => {
    const [operator] = context.operators ?? [];
    const leaves = await secretsOf(context, { labelSelector: `${labels.component}=tls` });
    const authorities = operator
      ? await secretsOf(context, { labelSelector: `${labels.component}=authority`, namespace: operator.namespace })
      : [];
    const unread = [leaves, authorities].filter((one) => typeof one === "string");
    if (typeof leaves === "string" || typeof authorities === "string") return [skip("ends of certificates", unread.join("; "))];
    const all = [
      ...leaves.flatMap((secret) => certificatesOf(secret, "tls.crt", leafLeftMs)),
      ...authorities.flatMap((secret) => certificatesOf(secret, "ca.crt", authorityLeftMs)),
    ];
    return judgeCertificates(all, context.now);
  },
};

/** The Secrets, or why they may not be read. */
async function secretsOf(
  { kube }: Context,
  where: { readonly labelSelector: string; readonly namespace?: string },
): Promise<readonly KubeObject[] | string> {
  try {
    return (await kube.list(resources.secrets, where)).items;
  } catch (caught) {
    return AppError.from(caught).message;
  }
}
