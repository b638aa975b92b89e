// Shows the OpenAPI document that this very server describes itself with, and asks nobody else:
// without `validatorUrl: null` the page would send the document's address to Swagger's validator.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#api",
  deepLinking: true,
  validatorUrl: null,
  defaultModelsExpandDepth: 0,
});
