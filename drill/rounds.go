package drill

import (
	"context"
	"fmt"
	"time"
)

// MaxRounds bounds SaleRounds.
const MaxRounds = 1000

// RoundsFigures are what SaleRounds has measured.
type RoundsFigures struct {
	Rounds  int      `json:"rounds"`
	Passed  int      `json:"passed"`
	Seeds   []uint64 `json:"seeds"`
	Seconds float64  `json:"seconds"`
}

// SaleRounds runs the sale drill again and again, each time with another seed; the first is
// opts.Seed. It ends with the first round that fails, whose seed its report has.
func SaleRounds(ctx context.Context, opts SaleOptions, rounds int) (Report, error) {
	if rounds < 1 || rounds > MaxRounds {
		return Report{}, fmt.Errorf("drill: %d rounds is not in 1..%d", rounds, MaxRounds)
	}
	began := time.Now()
	figures := RoundsFigures{Rounds: rounds}
	var all Report
	for n := range rounds {
		report, err := Sale(ctx, opts)
		if err != nil {
			return Report{}, fmt.Errorf("round %d of %d: %w", n+1, rounds, err)
		}
		figures.Seeds = append(figures.Seeds, report.Seed)
		all = sum(all, report, n+1)
		if !report.Passed() {
			break
		}
		figures.Passed++
		if opts.Progress != nil {
			fmt.Fprintf(opts.Progress, "round %d of %d has passed, seed %d\n", n+1, rounds, report.Seed)
		}
		opts.Seed = report.Seed%(maxSeed-1) + 1
	}
	figures.Seconds = rounded(time.Since(began).Seconds())
	all.Figures = figures
	return all, nil
}

// sum adds a round's report to those before.
func sum(all, more Report, rounds int) Report {
	if rounds == 1 {
		all = more
		all.Checks = append([]Check(nil), more.Checks...)
	}
	all.Verdict, all.Kept = more.Verdict, more.Kept
	if !more.Passed() {
		all.Seed = more.Seed
	}
	for i, c := range more.Checks {
		if c.OK && rounds > 1 {
			c.Detail = fmt.Sprintf("in %d rounds; in the last: %s", rounds, c.Detail)
		}
		all.Checks[i] = c
	}
	return all
}
