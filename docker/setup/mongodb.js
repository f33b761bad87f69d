// Run by mongosh as the superuser, as often as need be: the replica set, the event store, and the user that reads it.
try {
  rs.status();
} catch (error) {
  rs.initiate({ _id: "rs0", members: [{ _id: 0, host: "mongodb:27017" }] });
}
while (!db.hello().isWritablePrimary) sleep(200);

const store = db.getSiblingDB("eventstore");
if (store.getCollectionNames().length === 0) {
  for (const command of JSON.parse(fs.readFileSync("/lab/setup/eventstore.json"))) {
    const answer = store.runCommand(command);
    if (answer.ok !== 1) throw new Error(JSON.stringify(answer));
  }
}
if (store.getUser("millrace") === null) {
  store.createUser({ user: "millrace", pwd: process.env.LAB_PASSWORD, roles: ["read"] });
}
