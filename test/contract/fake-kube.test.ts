import { FakeKube } from "../kit/kube/fake-kube.ts";
import { runKubeContract } from "./kube.ts";

runKubeContract({
  make: async () => ({ kube: new FakeKube(), namespace: "contract" }),
  skip: {
    "an unknown field is Invalid, never dropped":
      "the in-memory API has no schemas of built-in kinds; the real server is asked in the integration test",
  },
});
