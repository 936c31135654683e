// A gateway that is told to stop while clients stream: answers that have begun come whole, and new connections are taken by it or by none.

import assert from "node:assert/strict";
import { test } from "node:test";
import { chat, chatPrompt, expected, stream, useGateways } from "../../test/kit/gateway/gateway-host.ts";
import { until } from "../../test/kit/wait.ts";

const { startAll } = useGateways();
const clients = 8;

test("every answer that has begun comes whole, whenever the gateway is told to stop", async () => {
  const { url, gateway } = await startAll([{ delayMs: 20 }]);
  let stopped = false;
  let whole = 0;
  const client = async (): Promise<void> => {
    for (;;) {
      try {
        const { text, done } = await stream(`${url}/v1/chat/completions`, chat());
        assert.equal(text, expected(chatPrompt, 20));
        assert.ok(done);
        whole += 1;
      } catch (caught) {
        // Refused at the door, once it does not listen any more; a stream that is cut says "terminated".
        assert.ok(stopped && caught instanceof TypeError && caught.message === "fetch failed", String(caught));
        return;
      }
    }
  };
  const all = Promise.all(Array.from({ length: clients }, client));
  await until("each client has had answers", () => whole > clients);
  const before = whole;
  stopped = true;
  await gateway.close(20_000);
  await all;
  assert.ok(whole > before, "those that had begun came");
});
