package engine

// Check is one thing that `dormouse doctor` looked at.
type Check struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	Detail string `json:"detail"`           // what is so
	Remedy string `json:"remedy,omitempty"` // what to do about it, unless it is ok
}

// Status is how good what a [Check] found is.
type Status string

// The statuses of a check.
const (
	OK   Status = "ok"
	Weak Status = "weak" // it works, and could be safer or faster
	Bad  Status = "bad"  // it does not work, or a promise is not kept
)
