// The condition RolesServed, and the ranks that serve by role. Pure.
import type { Roles } from "../../../crds/roles.ts";
import type { MemberView, Verdict } from "./world.ts";

const roleNames = ["prefill", "decode", "both"] as const;
const ranksShown = 16;

type Member = Pick<MemberView, "rank" | "role" | "active">;

const ranksIn = (members: readonly Member[], role: Member["role"]): number[] =>
  members.flatMap((member) => (member.role === role ? [member.rank] : [])).sort((a, b) => a - b);

/** Undefined while no rank has one. */
export function rolesText(members: readonly Member[] = []): string | undefined {
  if (members.every(({ role }) => role === undefined)) return undefined;
  return roleNames.map((role) => `${role} ${ranksIn(members, role).length}`).join(", ");
}

/** Undefined without roles. */
export function rolesVerdict(spec: Roles | undefined, members: readonly Member[] | undefined): Verdict | undefined {
  if (!spec) return undefined;
  if (!members) return { status: "Unknown", reason: "NotObserved", message: "no worker was reached yet" };
  const [prefill, decode, both] = roleNames.map((role) => ranksIn(members, role));
  const serving = [prefill, decode, both].reduce((sum, ranks = []) => sum + ranks.length, 0);
  if (serving === 0) {
    if (members.some(({ active }) => active)) return { status: "Unknown", reason: "NotObserved", message: "ranks are being given roles" };
    return { status: "Unknown", reason: "NoRanks", message: "no rank serves yet" };
  }
  const named = (role: string, ranks: readonly number[] = []): string => {
    const more = ranks.length > ranksShown ? " and more" : "";
    return `${role}: ${ranks.length === 0 ? "none" : `${ranks.length === 1 ? "rank" : "ranks"} ${ranks.slice(0, ranksShown).join(", ")}${more}`}`;
  };
  const message = [named("prefill", prefill), named("decode", decode), named("both", both)].join("; ");
  const wanted = spec.prefill + spec.decode;
  if (serving >= wanted) return { status: "True", reason: "Served", message };
  const why = serving === 1 ? "the only rank that serves does both" : `${serving} of ${wanted} ranks with a role serve`;
  return { status: "False", reason: "TooFewRanks", message: `${why}; ${message}; Ready says what the others wait for` };
}
