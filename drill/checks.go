package drill

import (
	"fmt"
	"sort"
	"strings"
)

// findings collects what is wrong; a report quotes the first few.
type findings []string

const quoted = 5

func (f *findings) add(format string, args ...any) { *f = append(*f, fmt.Sprintf(format, args...)) }

// detail is the findings, or what was looked at when there are none.
func (f findings) detail(looked string) string {
	if len(f) == 0 {
		return looked
	}
	more := ""
	if len(f) > quoted {
		more = fmt.Sprintf("; and %d more", len(f)-quoted)
	}
	return strings.Join(f[:min(len(f), quoted)], "; ") + more
}

// check is one look at the evidence. It returns what is wrong, and what was looked at.
type check struct {
	name string
	look func(e *evidence) (wrong findings, looked string)
}

// saleChecks is the judgement, in the order of the report.
var saleChecks = []check{
	{"never-oversold-by-events", neverOversoldByEvents},
	{"never-oversold-by-rows", neverOversoldByRows},
	{"rows-agree", rowsAgree},
	{"limits-kept", limitsKept},
	{"holds-kept", holdsKept},
	{"payments-kept", paymentsKept},
	{"one-effect-per-key", oneEffectPerKey},
	{"same-bytes", sameBytes},
	{"orders-are-paid", ordersArePaid},
	{"provider-agrees", providerAgrees},
	{"ledger-balances", ledgerBalances},
	{"everything-sold", everythingSold},
	{"units-came-back", unitsCameBack},
	{"permits-agree", permitsAgree},
	{"store-kept-its-word", storeKeptItsWord},
	{"events-streamed", eventsStreamed},
	{"recovered-by-themselves", recoveredByThemselves},
	{"servers-answered-well", serversAnsweredWell},
	{"storm-happened", stormHappened},
}

// judge looks at everything.
func judge(e *evidence) (checks []Check, verdict string) {
	verdict = Pass
	for _, c := range saleChecks {
		wrong, looked := c.look(e)
		checks = append(checks, Check{Name: c.name, OK: len(wrong) == 0, Detail: wrong.detail(looked)})
		if len(wrong) > 0 {
			verdict = Fail
		}
	}
	return checks, verdict
}

// sorted are the keys of m, so that findings come in one order.
func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
