// The Secrets of the chart's NATS in the operator's namespace: KEYS, made once and read by the operator alone, and SERVER, which the
// server is started with and has a user that hears all load and says nothing.

import { makerLabels, manager } from "../../kube/adoption.ts";
import { type Kube, resources } from "../../kube/kube.ts";
import { encoded, textOf } from "../../pki/authorities.ts";
import { freshSeeds, NatsAccount, type NatsUser } from "../../pki/nats-account.ts";

/** The Secrets are looked at again after this. */
const lookMs = 60_000;
const listener: NatsUser = { name: "listener", publish: [], subscribe: [">"] };

export interface NatsIssuerOptions {
  readonly kube: Pick<Kube, "get" | "create" | "update">;
  readonly namespace: string;
  /** Begin of the Secrets' names. */
  readonly secrets: string;
  readonly now: () => Date;
}

interface Issued {
  readonly account: NatsAccount;
  readonly listener: string;
}

export class NatsIssuer {
  readonly #options: NatsIssuerOptions;
  #held: { readonly issued: Promise<Issued>; readonly until: number } | undefined;

  constructor(options: NatsIssuerOptions) {
    this.#options = options;
  }

  /** Looks at once and then regularly, whoever asks. Returns the function that stops it. */
  keep(onError: (error: unknown) => void): () => void {
    const look = () => void this.#issued().catch(onError);
    look();
    const timer = setInterval(look, lookMs);
    return () => clearInterval(timer);
  }

  /** Credentials of the operator, for all load. */
  async listener(): Promise<string> {
    return (await this.#issued()).listener;
  }

  /** See NatsAccount. */
  async user(user: NatsUser, former: string | undefined): Promise<string> {
    return (await this.#issued()).account.credentials(user, this.#options.now(), former);
  }

  #issued(): Promise<Issued> {
    const now = this.#options.now().getTime();
    if (this.#held && this.#held.until > now) return this.#held.issued;
    const issued = this.#ensure();
    this.#held = { issued, until: now + lookMs / 2 };
    issued.catch(() => {
      this.#held = undefined;
    });
    return issued;
  }

  async #ensure(): Promise<Issued> {
    const seeds = await this.#keep("keys", ({ operator, account }) => (operator && account ? { operator, account } : freshSeeds()));
    const account = new NatsAccount(seeds);
    const server = await this.#keep("server", (had) => ({
      "auth.conf": account.serverConfig,
      "user.creds": account.credentials(listener, this.#options.now(), had["user.creds"]),
    }));
    return { account, listener: server["user.creds"] };
  }

  /** The entries of a Secret, which is written where it has others. */
  async #keep<E extends Readonly<Record<string, string>>>(
    name: string,
    wantedOf: (had: Readonly<Record<string, string | undefined>>) => E,
  ): Promise<E> {
    const { kube, namespace, secrets } = this.#options;
    const ref = { namespace, name: `${secrets}-${name}` };
    const live = await kube.get(resources.secrets, ref);
    const had = Object.keys((live?.data ?? {}) as object).map((entry) => [entry, live && textOf(live, entry)]);
    const wanted = wantedOf(Object.fromEntries(had));
    if (live && Object.entries(wanted).every(([entry, text]) => textOf(live, entry) === text)) return wanted;
    const data = encoded(wanted);
    if (live) await kube.update(resources.secrets, { ...live, data }, { manager });
    else {
      const metadata = { ...ref, labels: makerLabels };
      await kube.create(resources.secrets, { apiVersion: "v1", kind: "Secret", metadata, type: "Opaque", data }, { manager });
    }
    return wanted;
  }
}
