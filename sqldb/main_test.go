package sqldb_test

import (
	"testing"

	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
)

func TestMain(m *testing.M) { sqldbtest.Main(m) }
