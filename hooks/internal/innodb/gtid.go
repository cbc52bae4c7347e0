// SPDX-License-Identifier: Apache-2.0

package innodb

import (
	"fmt"
	"strconv"
	"strings"
)

// parseGTID returns the sequence numbers of a GTID position of MariaDB, such as
// "0-1-270,1-3-12", by domain.
func parseGTID(text string) (map[string]uint64, error) {
	domains := make(map[string]uint64)
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		fields := strings.Split(part, "-")
		if len(fields) != 3 {
			return nil, fmt.Errorf("GTID position %.200q", text)
		}
		n, err := strconv.ParseUint(fields[2], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("GTID position %.200q", text)
		}
		domains[fields[0]] = max(n, domains[fields[0]])
	}
	return domains, nil
}

// Reaches returns an error unless a GTID position of MariaDB is at least that of
// before, in every domain.
func Reaches(now, before string) error {
	has, err := parseGTID(now)
	if err != nil {
		return err
	}
	need, err := parseGTID(before)
	if err != nil {
		return err
	}
	for domain, n := range need {
		if has[domain] < n {
			return fmt.Errorf("the binary log recovered to GTID %.200q, and has to reach %.200q", now, before)
		}
	}
	return nil
}
