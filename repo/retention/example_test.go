// SPDX-License-Identifier: Apache-2.0

package retention_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/stillpoint-go/protect/repo/retention"
)

func ExamplePolicy_Plan() {
	var policy retention.Policy
	if err := json.Unmarshal([]byte(`{"last": 2, "daily": 2, "monthly": 2, "tags": ["release"], "max_share": 0.6}`), &policy); err != nil {
		fmt.Println(err)
		return
	}
	commit := func(id string, day, hour int, tags ...string) retention.Point {
		return retention.Point{ID: id, Group: "shop", Time: time.Date(2026, time.November, day, hour, 0, 0, 0, time.UTC), Tags: tags}
	}
	plan, err := policy.Plan([]retention.Point{
		commit("p1", 1, 2, "release"),
		commit("p2", 18, 2),
		commit("p3", 19, 2),
		commit("p4", 19, 14),
		commit("p5", 20, 2),
		commit("p6", 20, 14),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, d := range plan.Decisions {
		if d.Keep {
			fmt.Println(d.Point.ID, "keep:", strings.Join(d.Reasons, ", "))
		} else {
			fmt.Println(d.Point.ID, "forget")
		}
	}
	// Output:
	// p1 keep: tag release
	// p2 forget
	// p3 forget
	// p4 keep: daily 2026-11-19
	// p5 keep: last 2 of 2
	// p6 keep: last 1 of 2, daily 2026-11-20, monthly 2026-11
}
