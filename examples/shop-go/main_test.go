package main

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/holdfast-dev/holdfast/flashsale"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Three posters, four buyers, and one who comes twice.
func TestShop(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "shop")
	sell := func(buyer string) (said string, err error) {
		var out bytes.Buffer
		err = run(t.Context(), dir, buyer, &out)
		return out.String(), err
	}
	for i, buyer := range []string{"ada", "ada", "bob", "cyd"} {
		said, err := sell(buyer)
		if err != nil {
			t.Fatalf("%s: %v\n%s", buyer, err, said)
		}
		again := strings.Count(said, "asked before: true")
		sold := []string{"1 sold", "1 sold", "2 sold", "3 sold"}[i]
		if !strings.Contains(said, "is confirmed: 1900 EUR") || !strings.HasSuffix(said, sold+"\n") || (again == 2) != (i == 1) {
			t.Errorf("%s, run %d:\n%s", buyer, i, said)
		}
	}
	if said, err := sell("eve"); !errors.Is(err, flashsale.ErrSoldOut) {
		t.Errorf("a fourth poster: %v\n%s", err, said)
	}
}
