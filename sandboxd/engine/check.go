package engine

// Check is the result of one check of `dormouse doctor`.
type Check struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	Detail string `json:"detail"`           // the finding
	Remedy string `json:"remedy,omitempty"` // how to fix it; empty if the status is OK
}

// Status is the result of a [Check].
type Status string

// The statuses of a check.
const (
	OK   Status = "ok"
	Weak Status = "weak" // the checked part works, but could be safer or faster
	Bad  Status = "bad"  // the checked part does not work, or a guarantee does not hold
)
