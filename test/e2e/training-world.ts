// The ground that e2e files of training share: a namespace with a folder that all nodes and the test see, with a small model and token
// data in it, jobs that train on them, and looks at how they stand.
