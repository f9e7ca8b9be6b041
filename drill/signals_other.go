//go:build !unix

package drill

import "errors"

func killPid(int) error     { return errors.ErrUnsupported }
func stopPid(int) error     { return errors.ErrUnsupported }
func continuePid(int) error { return errors.ErrUnsupported }
