// A gateway that dies: its client repeats by the key of its request at the other one, and has the whole text.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { gatewayUrl } from "../../kit/deployment/product.ts";
import { ask } from "../../kit/gateway/openai-client.ts";
import { processOf } from "../../kit/kube/pod-process.ts";
import { until } from "../../kit/processes/process.ts";
import { those } from "./ranks.ts";
import type { Fault } from "./scene.ts";
import { drawn } from "./schedule.ts";

const tokens = 64;
/** The stream has so many when its gateway goes. */
const seenTokens = 8;
/** A container that ends often waits for minutes before it is started again. */
const backWithinMs = 300_000;

export const gatewayKilled: Fault = {
  name: "a gateway killed while it streams",
  strike: async (scene, draw) => {
    const gateways = (await scene.pods()).filter(({ component }) => component === "gateway");
    const victim = drawn(gateways, draw, "gateway");
    const other = drawn(
      gateways.filter((one) => one !== victim),
      draw,
      "other gateway",
    );
    const pid = await processOf(victim.uid);
    const asked = { model: scene.moe.name, prompt: "Name ten towns by the sea.", maxTokens: tokens, temperature: 0 };
    const calm = await ask({ ...asked, url: gatewayUrl(other.ip) });
    const key = randomUUID();
    const kill = (_: string, count: number): void => void (count === seenTokens && process.kill(pid, "SIGKILL"));
    await assert.rejects(ask({ ...asked, key, url: gatewayUrl(victim.ip), onToken: kill }), TypeError, "the stream outlived its gateway");
    const again = await ask({ ...asked, key, url: gatewayUrl(other.ip) });
    assert.equal(again.text, calm.text, "the text that a repeat by key gave");
    const overAt = Date.now();
    const back = () => ask({ ...asked, maxTokens: 1, url: gatewayUrl(victim.ip) }).catch(() => undefined);
    await until("the gateway to answer again", back, { timeoutMs: backWithinMs });
    return { mayGo: those([victim]), cut: 1, overAt };
  },
};
